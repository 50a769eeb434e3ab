"""API keys: generation, hashing and lookup.

Settings hold hashes only (`moe.serve.settings`). A key has 32 random bytes, so a plain SHA-256 cannot be reversed by
guessing; slow password hashes are for secrets that people choose.
"""

import hashlib
import hmac
import secrets
from collections.abc import Mapping

KEY_PREFIX = "moe_"
"""Start of every key, so that secret scanners recognise a leaked one."""


def generate_key() -> dict[str, str]:
    """Return a new random `key` and its `sha256`, which goes into the settings."""
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    return {"key": key, "sha256": hash_key(key)}


def hash_key(key: str) -> str:
    """Return the SHA-256 of a key as 64 hexadecimal digits."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def find_key_owner(key: str, keys: Mapping[str, str]) -> str | None:
    """Return the name under which a key is registered, or None; compares with every hash in constant time."""
    digest = hash_key(key)
    owners = [name for name, known in keys.items() if hmac.compare_digest(digest, known)]
    return owners[0] if owners else None
