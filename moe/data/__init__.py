"""Files → rows → splits → batches."""
