"""API keys: how one is made, and how one that is shown is known.

Settings hold hashes alone (`moe.serve.settings`). A key is 32 random bytes, so its plain SHA-256 cannot be guessed
back; slow hashes are for words that people choose.
"""

import hashlib
import hmac
import secrets
from collections.abc import Mapping

KEY_PREFIX = "moe_"
"""What a key begins with, so that a leaked one can be found by its look."""


def generate_key() -> dict[str, str]:
    """A fresh key, and the hash that goes into the settings."""
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    return {"key": key, "sha256": hash_key(key)}


def hash_key(key: str) -> str:
    """The hash by which a key is known."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def find_key_owner(key: str, keys: Mapping[str, str]) -> str | None:
    """Whose key it is, None of nobody's; every hash is compared, each in constant time."""
    shown = hash_key(key)
    same = [name for name, known in keys.items() if hmac.compare_digest(shown, known)]
    return same[0] if same else None
