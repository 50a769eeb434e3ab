"""The workshop: data, model, stages, training, merging, evaluation and inference for a mixture of domain experts."""
