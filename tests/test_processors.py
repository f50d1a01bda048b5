"""The command that runs the tests as on other processors."""

from collections.abc import Mapping
from types import SimpleNamespace

import pytest

from tests import processors


def test_each_environment_runs_and_one_that_fails_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[list[str]] = []

    def run(command: list[str], cwd: object, env: Mapping[str, str]) -> SimpleNamespace:
        ran.append(
            [env["ATEN_CPU_CAPABILITY"], env.get("ONEDNN_MAX_CPU_ISA", ""), env["OMP_NUM_THREADS"], *command[1:]]
        )
        return SimpleNamespace(returncode=int(env["OMP_NUM_THREADS"] == "2"))

    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr(processors.subprocess, "run", run)
    assert processors.main(["tests/test_solver.py", "-k", "energy"]) == 1
    rest = ["-m", "pytest", "-q", "tests/test_solver.py", "-k", "energy"]
    environments = [("default", "", "1"), ("default", "", "2"), ("avx2", "AVX2", "1"), ("avx2", "AVX2", "2")]
    assert ran == [[*each, *rest] for each in environments]
    last = capsys.readouterr().out.splitlines()[-4:]
    assert [line.rpartition("s, ")[2] for line in last] == ["passed", "failed, pytest's exit status is 1"] * 2
    assert last[2].startswith("avx2-1 (ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 OMP_NUM_THREADS=1): ")
    assert processors.main(["--environment", "avx2-1"]) == 0
