"""Lines of mosquitto's password file: NAME:$7$ITERATIONS$SALT$HASH, the hash PBKDF2 with HMAC-SHA-512, base64.

Passwords are generated here with 144 random bits, so guessing is hopeless at any number of iterations. The number is
mosquitto's default, because mosquitto computes the hash in its only thread: with a larger one, anybody could stop all
traffic by trying passwords.
"""

import base64
import hashlib

ITERATIONS = 101
"""The default of mosquitto_passwd; the top of this module says why no more."""
SALT_BYTES = 12
"""As in the files of mosquitto_passwd 2.0."""
PASSWORD_BYTES = 18
"""144 random bits, beyond guessing; a multiple of 3, so that base64 needs no padding."""
_HASH_BYTES = 64
"""The length of SHA-512, which mosquitto expects."""


def entry(name: str, password: str, *, salt: bytes, iterations: int = ITERATIONS) -> str:
    """One line of the file, without line end."""
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, iterations, _HASH_BYTES)
    encoded = [base64.b64encode(part).decode() for part in (salt, digest)]
    return f"{name}:$7${iterations}${encoded[0]}${encoded[1]}"


def with_entry(text: str, line: str) -> str:
    """The file's text with this line added, or replacing that of the same name."""
    name = line.partition(":")[0]
    return without_entry(text, name) + line + "\n"


def without_entry(text: str, name: str) -> str:
    """The file's text without the line of this name."""
    kept = [line for line in text.splitlines() if line.partition(":")[0] != name]
    return "".join(f"{line}\n" for line in kept)
