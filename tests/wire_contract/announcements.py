"""What an aggregator publishes of a version that can only be downloaded whole."""

from wire_contract.encoding import EncodingName
from wire_contract.layout import Layout, Vector
from wire_contract.line_description import LineDescription
from wire_contract.publication.manifest import Announcement
from wire_contract.publication.release import first_release


def announce(
    weights: Vector,
    *,
    task: str,
    version: int,
    parent: int | None,
    layout: Layout,
    encoding: EncodingName,
    shards: int,
    update_bytes_max: int,
    published_at: float,
    description: LineDescription | None = None,
) -> Announcement:
    """Of `weights` (layout.size,): inline if they fit, else in chunks."""
    release = first_release(
        weights,
        task=task,
        version=version,
        parent=parent,
        layout=layout,
        encoding=encoding,
        published_at=published_at,
    )
    return release.announcement(shards=shards, update_bytes_max=update_bytes_max, description=description)
