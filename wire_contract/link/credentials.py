"""A link's credentials, password and TLS files, which are read again when they are renewed."""

import logging
import ssl
from pathlib import Path

from wire_contract.errors import FileUnusable, LinkError
from wire_contract.files.watched_files import WatchedFiles, first_line
from wire_contract.link.mqtt_settings import MqttSettings, Tls

log = logging.getLogger(__name__)


class Credentials:
    """Credentials of one link. After construction, used only by the link's thread."""

    def __init__(self, settings: MqttSettings) -> None:
        """Reads all files.

        Raises:
            LinkError: one of them cannot be used.
        """
        self._settings = settings
        self._files = WatchedFiles(_files(settings))
        self._complaint = ""
        self._doubted = False
        self.tls, self.password = self._read()

    @property
    def certificate_file(self) -> Path | None:
        """This client's own certificate, if it has one."""
        tls = self._settings.tls
        return tls.certificate_file if isinstance(tls, Tls) else None

    def touched(self) -> bool:
        """Whether a file has changed since it was read, so that a new attempt may succeed."""
        return self._files.touched()

    def doubt(self) -> None:
        """A TLS connection failed: `renew` then reads everything again, also the system's certificate authorities."""
        self._doubted = True

    def renew(self) -> bool:
        """Reads the files again if they have changed; returns whether they have.

        Unusable files, such as a new certificate whose key is not written yet, are logged once, and the previous
        credentials stay in use.
        """
        doubted, self._doubted = self._doubted, False
        changed = self._files.changed()
        if not changed and not doubted:
            return False
        try:
            self.tls, self.password = self._read()
        except LinkError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                log.warning("%s; the previous credentials stay in use", error)
            return False
        self._complaint = ""
        return changed

    def _read(self) -> tuple[ssl.SSLContext | None, str | None]:
        settings = self._settings
        if settings.password_file is None:
            return settings.tls_context(), settings.password
        try:
            password = first_line(settings.password_file, "password file")
        except FileUnusable as error:
            raise LinkError(str(error)) from None
        return settings.tls_context(), password


def _files(settings: MqttSettings) -> list[Path]:
    files = [settings.password_file]
    if isinstance(settings.tls, Tls):
        files += settings.tls.files
    return [file for file in files if file is not None]
