"""`signing-key`: makes the key that signs a device's updates."""

from device_client.settings import SigningKeySettings
from wire_contract.signatures.key_files import write_signing_key


def make_signing_key(settings: SigningKeySettings) -> None:
    """Writes a new key pair for updates."""
    key = write_signing_key(settings.out)
    print(f"key {key.public.key_id.hex()}: {settings.out} is private, {settings.out}.pub is for the aggregator")
