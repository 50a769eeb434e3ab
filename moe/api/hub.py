"""Models on the Hugging Face Hub: found in its cache or downloaded, by name."""

import re
from pathlib import Path

from experts.errors import Fault

_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def download_model(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
) -> Path:
    """Return a local path as it is, and the folder of a model on the Hub, which is downloaded unless it is cached.

    Args:
        name_or_path: a folder, `ready`, or `owner/name` on the Hub.
        revision: branch, tag or commit on the Hub; the main branch by default.
        token: access token for the Hub, or whether to use the stored one.
        cache_dir: folder for files from the Hub; the Hub's own cache by default.

    Raises:
        Fault: if a name is neither a folder nor on the Hub, or a revision is given for a folder.
    """
    path = Path(name_or_path)
    if path.exists() or not _HUB_NAME.fullmatch(str(name_or_path)):
        if revision is not None:
            raise Fault("a revision of a model on the Hub", f"the folder {path}", "remove revision, or name a model")
        return path
    from huggingface_hub import snapshot_download  # slow to import, and a folder does not need it
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(name_or_path), revision=revision, token=token, cache_dir=cache_dir))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise Fault(
            f"a folder, or a model on the Hugging Face Hub, {str(name_or_path)!r}",
            reason,
            "check the name and the revision, log in for a private model, or download it first",
        ) from error
