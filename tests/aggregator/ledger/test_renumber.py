"""After an older copy of a ledger was restored the line goes on above what devices have seen, with the same weights."""

import shutil
from pathlib import Path

import pytest

from aggregator.__main__ import main
from aggregator.ledger.file_format import LedgerError
from aggregator.ledger.renumber import move_forward
from aggregator.publishing.ownership import LineRefused
from device_client.downlink.model_trust import ModelTrust, VolatileTrustMemory
from tests.aggregator.stage import MODEL
from tests.aggregator.synthetic import TASK, newest_weights
from tests.aggregator.test_signing import OLD, Stage
from wire_contract.errors import DecodeError
from wire_contract.publication.manifest import assemble_snapshot


def test_a_restored_ledger_is_refused_until_it_is_moved_forward(tmp_path: Path) -> None:
    path, copy = tmp_path / "ledger", tmp_path / "copy"
    trust = ModelTrust([OLD.public], task=TASK, memory=VolatileTrustMemory(), unix=lambda: 0.0)
    stage = Stage(path)
    stage.step()
    stage.teach(2)
    stage.send(stage.device("c"))
    stage.step()
    stage.ledger.close()
    shutil.copy(path, copy)
    stage.crash()
    stage.start()
    stage.step()
    stage.teach(3)
    assert trust.read(stage.broker.retained[MODEL]).version == 5
    lost = stage.line.release.published.digest
    stage.crash()
    shutil.copy(copy, path)
    for side in ("-wal", "-shm"):
        path.with_name(path.name + side).unlink(missing_ok=True)

    stage.start()
    before = dict(stage.broker.retained)
    with pytest.raises(LineRefused, match=r"at version 5, published .* move-forward --ledger .*ledger --version 6"):
        stage.step()
    assert stage.broker.retained == before, "nothing was changed"
    stage.crash()
    stage.start(replace_line=True)
    stage.step()
    assert stage.manifest.version == 2
    with pytest.raises(DecodeError, match="it announces version 2, and version 5 was announced before"):
        trust.read(stage.broker.retained[MODEL])
    weights = newest_weights(path)
    stage.crash()
    assert move_forward(path, version=6, shard=0, unix=lambda: 5.0) == 2

    stage.start()
    stage.step()
    manifest = trust.read(stage.broker.retained[MODEL])
    assert (manifest.version, manifest.parent, manifest.digest != lost) == (6, 2, True)
    published = assemble_snapshot(manifest)
    assert published is not None
    assert published.weights.tobytes() == weights.tobytes()
    assert stage.line.buffer.updates == 1, "what waited still does"
    stage.send(stage.device("d"))
    stage.step()
    assert trust.read(stage.broker.retained[MODEL]).version == 7
    assert stage.receipts()[-1].outcome == "merged"
    stage.crash()
    stage.start()
    assert stage.line.version == 7, "and it restarts as any other"
    stage.ledger.close()


def test_only_forward(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "ledger")
    stage.step()
    stage.teach(1)
    stage.ledger.close()
    for version in (0, 1):
        with pytest.raises(LedgerError, match="is at version 1; give a --version above it"):
            move_forward(stage.path, version=version, shard=0, unix=lambda: 5.0)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage = Stage(tmp_path / "ledger")
    stage.step()

    def run(*flags: str) -> int:
        return main(["move-forward", "--ledger", str(stage.path), *flags])

    assert run("--version", "9") == 2
    assert "another aggregator" in capsys.readouterr().err
    stage.ledger.close()
    assert run("--version", "9") == 0
    assert "version 0 is now version 9" in capsys.readouterr().out
    assert run("--version", "9") == 2
    assert "give a --version above it" in capsys.readouterr().err
    assert main(["move-forward", "--ledger", str(tmp_path / "none"), "--version", "9"]) == 2
