"""The conductor of a study replaces those that are killed, quotes those that stop, and takes all of them along
when it goes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kka.errors import KkaError
from pipelines.tuning import workers
from pipelines.tuning.workers import look_after
from tests.pipelines.conftest import ROOT, tiny


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in whose file `code` stands what a process does; each start is a line in `starts`."""
    monkeypatch.setattr(workers, "_POLL", 0.05)
    monkeypatch.setattr(workers, "_PAUSE", 0.1)

    def start(words: object, config: object, log: Path) -> subprocess.Popen[bytes]:
        with (tmp_path / "starts").open("a") as starts:
            starts.write("one\n")
        with log.open("wb") as told:
            code = (tmp_path / "code").read_text()
            return subprocess.Popen(
                [sys.executable, "-c", code],
                stdout=told,
                stderr=subprocess.STDOUT,
                cwd=tmp_path,
                start_new_session=True,
            )

    monkeypatch.setattr(workers, "_start", start)
    return tmp_path


def starts(place: Path) -> int:
    return len((place / "starts").read_text().splitlines())


def done(place: Path, wanted: int) -> int:
    return wanted - len(list(place.glob("done-*")))


def test_a_process_that_is_killed_is_replaced(place: Path) -> None:
    (place / "code").write_text(
        "import os, pathlib, signal\n"
        "n = len(open('starts').readlines())\n"
        "os.kill(os.getpid(), signal.SIGKILL) if n == 2 else pathlib.Path(f'done-{n}').touch()\n"
    )
    look_after(["--worker", "trials"], tiny(), place, lambda: done(place, 3), list)
    assert starts(place) == 4


def test_what_kills_every_process_ends_it(place: Path) -> None:
    (place / "code").write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(
        KkaError, match="^tune: 3 processes in a row were killed and nothing was finished. Is memory short?"
    ):
        look_after(["--worker", "trials"], tiny(), place, lambda: 1, list)


def test_a_process_that_stops_is_quoted_and_the_others_go_with_it(place: Path) -> None:
    (place / "code").write_text(
        "import sys, time, pathlib\n"
        "n = len(open('starts').readlines())\n"
        "time.sleep(1) if n < 2 else time.sleep(0)\n"
        "sys.exit('kka: there is\\nkka: no space') if n >= 2 else time.sleep(60)\n"
    )
    (place / "worker-7.log").write_text("kka: of yesterday\n")
    with pytest.raises(KkaError, match="^there is\nno space$"):
        look_after(["--worker", "trials"], tiny(tune__workers=2), place, lambda: 1, list)
    found = subprocess.run(["pgrep", "-f", str(place)], capture_output=True, text=True)
    assert not found.stdout


def test_a_process_that_has_nothing_to_do_while_others_work_is_no_death(place: Path) -> None:
    (place / "code").write_text("")
    until = time.time() + 2
    look_after(["--worker", "trials"], tiny(), place, lambda: int(time.time() < until), list)
    assert starts(place) > 3


def test_mlflow_may_be_away(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> list[str]:
        raise RuntimeError("database is locked")

    (place / "code").write_text("import pathlib; pathlib.Path('done-1').touch()")
    look_after(["--worker", "trials"], tiny(), place, lambda: done(place, 1), refuse)
    assert "MLflow did not take it: database is locked" in capsys.readouterr().err


def test_processes_end_with_the_one_that_looks_after_them(tmp_path: Path) -> None:
    """However that one ends; and what they have started ends with them."""
    code = (
        "import subprocess, sys, time\n"
        "child = 'import os, subprocess, sys, time; from pipelines.tuning.workers import follow; follow(os.getppid());"
        ' print(os.getpid(), subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid, flush=True);'
        " time.sleep(60)'\n"
        "subprocess.Popen([sys.executable, '-c', child], start_new_session=True); time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(p) for p in parent.stdout.readline().split()]
    parent.send_signal(signal.SIGKILL)
    until = time.time() + 10
    while any(_lives(p) for p in pids) and time.time() < until:
        time.sleep(0.1)
    assert len(pids) == 2 and not any(_lives(p) for p in pids)
    parent.wait()
    parent.stdout.close()


def _lives(pid: int) -> bool:
    stat = Path("/proc", str(pid), "stat")
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not stat.exists() or stat.read_text().split()[2] != "Z"
