"""Recordings on disk: mapped rows, the manifest, damage, many processes, memory."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from latentcrf.training.chunks import MappedRows, open_chunks
from latentcrf.training.ldm import LDM
from latentcrf.training.loop import RunError
from latentcrf.training.record import main
from latentcrf.training.recording import RecordingSettings, load_recorded_runs, record_runs
from latentcrf.utils.content_hash import content_hash
from tests.training.tiny import build_sd, build_sdxl

ROOT = Path(__file__).parents[2]
RECORDING = RecordingSettings(steps=4, coarse=(4,), guidances=(3.0, 1.0), chunk=2)
PROMPTS = ["red apple", "pizza", "apple"]


@pytest.fixture(scope="module")
def ldm() -> LDM:
    return LDM(build_sd())


def test_mapped_rows_are_read_as_one_tensor() -> None:
    parts = [torch.randn(n, 5, 2, 3).half() for n in (2, 1, 4)]
    whole, rows = torch.cat(parts).float(), MappedRows(parts)
    assert len(rows) == 7 and rows.shape == whole.shape
    chosen, columns = torch.tensor([6, 0, 3, 3, 2]), torch.tensor([4, 0, 1, 2, 3])
    assert rows[:].equal(whole) and rows[1::2].equal(whole[1::2]) and rows[chosen].equal(whole[chosen])
    assert rows[chosen, columns].equal(whole[chosen, columns]) and rows[:, -1].equal(whole[:, -1])
    assert rows[:].dtype == torch.float32
    mask = torch.tensor([True, False, True, True, False, False, True])
    some = rows.select(mask)
    assert some[:].equal(whole[mask]) and some.select(torch.tensor([2, 2, 0]))[:, 1].equal(whole[[3, 3, 0], 1])
    assert some.parts[0].data_ptr() == parts[0].data_ptr()  # nothing was read or copied


@pytest.mark.parametrize("build", [build_sd, build_sdxl])
def test_half_precision_is_stored_in_half_the_bytes(build: object, tmp_path: Path) -> None:
    ldm = LDM(build())  # type: ignore[operator]
    for precision in (torch.float32, torch.bfloat16):
        record_runs(ldm, PROMPTS, tmp_path / str(precision), 2, RECORDING, precision)
    exact, half = (load_recorded_runs(tmp_path / str(each), ldm.scheduler) for each in (torch.float32, torch.bfloat16))
    assert exact.latents.parts[0].dtype == torch.float32 and half.latents.parts[0].dtype == torch.float16
    noise = exact.latents[:, 0]
    assert 0 < (half.latents[:, 0] - noise).square().mean().sqrt() < 3e-4  # what float16 rounds
    assert half.prompt_embeds[:].equal(exact.prompt_embeds[:])
    assert exact.prompt_embeds.shape[2] == ldm.unet.config.cross_attention_dim


def test_damaged_chunks_are_recorded_again_and_foreign_ones_refused(ldm: LDM, tmp_path: Path) -> None:
    record_runs(ldm, PROMPTS, tmp_path, 6, RECORDING)
    first, second, third = (tmp_path / f"{index:05d}.safetensors" for index in range(3))
    before = [path.read_bytes() for path in (first, second, third)]
    second.write_bytes(before[1][:-1] + bytes([before[1][-1] ^ 1]))  # a flipped bit
    third.write_bytes(before[2][: len(before[2]) // 2])
    with pytest.raises(RunError, match="00002.safetensors is damaged"):
        open_chunks(tmp_path)
    stamp = first.stat().st_mtime_ns
    record_runs(ldm, PROMPTS, tmp_path, 6, RECORDING)
    assert [path.read_bytes() for path in (first, second, third)] == before and first.stat().st_mtime_ns == stamp
    second.unlink()
    with pytest.raises(RunError, match="00001.safetensors is missing: .* does not hold 6 runs"):
        load_recorded_runs(tmp_path, ldm.scheduler)
    save_file(load_file(first), second, metadata={"hashes": "another of"})
    with pytest.raises(RunError, match="00001.safetensors was recorded otherwise than manifest.json says"):
        load_recorded_runs(tmp_path, ldm.scheduler)
    with pytest.raises(RunError, match="00001.safetensors was recorded otherwise than manifest.json says"):
        record_runs(ldm, PROMPTS, tmp_path, 6, RECORDING)


def test_two_settings_in_one_folder_are_refused(ldm: LDM, tmp_path: Path) -> None:
    record_runs(ldm, PROMPTS, tmp_path, 1, RECORDING)
    names = sorted(path.name for path in tmp_path.iterdir())
    for other, message in (
        (replace(RECORDING, chunk=3), "was recorded with --chunk 2: give it, or choose another folder"),
        (replace(RECORDING, steps=5, coarse=(5,)), "was recorded with other steps, coarse. Remove it"),
    ):
        with pytest.raises(RunError, match=message):
            record_runs(ldm, PROMPTS, tmp_path, 4, other)
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert (manifest["kind"], manifest["chunk"], manifest["latents"]) == ("runs", 2, [4, 8, 8])
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(RunError, match="holds recordings without manifest.json"):
        record_runs(ldm, PROMPTS, tmp_path, 1, RECORDING)


def test_the_command_refuses_too_few_chunks_and_other_kinds(
    ldm: LDM, small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ldm.pipeline.save_pretrained(tmp_path / "ldm")
    words = ["--base", tmp_path / "ldm", "--data", small_data, "--out", tmp_path / "runs", "--precision", "float32"]
    with pytest.raises(SystemExit):
        main([*map(str, words), "--runs", "60", "--chunk", "11"])
    assert "--chunk 11 is too much for 60 runs" in capsys.readouterr().err and not (tmp_path / "runs").exists()
    record_runs(ldm, PROMPTS, tmp_path / "runs", 1, RECORDING)
    static = ROOT / "assets" / "models" / "emoji-latentcrf-static"
    assert main([*map(str, words), "--runs", "16", "--static", str(static)]) == 1
    assert "runs holds runs, not final latents: choose another folder" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_record_what_one_does(small_data: Path, tmp_path: Path) -> None:
    """Both kinds; the two processes go on where a recording was stopped."""
    build_sd().save_pretrained(tmp_path / "ldm")
    words = ["--base", tmp_path / "ldm", "--data", small_data, "--runs", "48", "--precision", "float32"]
    kinds = {"runs": [], "final": ["--static", ROOT / "assets" / "models" / "emoji-latentcrf-static"]}
    commands = {kind: list(map(str, [*words, *more, "--out"])) for kind, more in kinds.items()}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in each of the two processes
    for kind, command in commands.items():
        assert main([*command, str(tmp_path / f"{kind}-one")]) == 0
    torch.set_num_threads(threads)
    for kind, chunks in (("runs", 3), ("final", 2)):  # the last chunk lies there already
        (tmp_path / f"{kind}-two").mkdir()
        for name in ("manifest.json", f"{chunks - 1:05d}.safetensors"):
            (tmp_path / f"{kind}-two" / name).write_bytes((tmp_path / f"{kind}-one" / name).read_bytes())
    calls = [[*command, str(tmp_path / f"{kind}-two")] for kind, command in commands.items()]
    (tmp_path / "both.py").write_text(
        f"from latentcrf.training.record import main\nassert [main(each) for each in {calls!r}] == [0, 0]\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29631", "both.py"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("process 1 of 2 is done") == done.stdout.count("process 2 of 2 is done") == 2
    for kind, chunks in (("runs", 3), ("final", 2)):
        one, two = tmp_path / f"{kind}-one", tmp_path / f"{kind}-two"
        names = sorted(path.name for path in one.iterdir())
        assert len(names) == chunks + 1 and names == sorted(path.name for path in two.iterdir())
        assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)


MEASURE = """
import re, sys
from pathlib import Path
import torch
from diffusers import DDIMScheduler
from latentcrf import LatentCRF
from latentcrf.training.observations import observe_recorded
from latentcrf.training.recording import load_recorded_runs
from latentcrf.training.train import validate, split

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

torch.set_num_threads(1)
held_out, runs = split(load_recorded_runs(Path(sys.argv[1]), DDIMScheduler()))
crf, peak = LatentCRF(form="static").eval(), 0.0
for _ in range(60):
    observe_recorded(runs, 32)
    peak = max(peak, anonymous())
with torch.no_grad():
    crf_forward = crf.forward
    def forward(*arguments):
        global peak
        result = crf_forward(*arguments)
        peak = max(peak, anonymous())
        return result
    crf.forward = forward
    validate(crf, held_out, torch.device("cpu"))
print("PEAK", peak)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_anonymous_memory_does_not_grow_with_the_recordings(tmp_path: Path) -> None:
    """Eight times the runs: training's reads and the validation need the same memory, within 16 MB."""
    chunk = {"latents": torch.randn(128, 51, 4, 8, 16), "prompt_embeds": torch.zeros(3, 8, 16).half()}
    for solver, steps in (("ddim", 4), ("dpm", 8)):
        chunk |= {f"{solver}.{key}": torch.randn(128, steps - 2, 4, 8, 16) for key in ("latents", "denoised")}
    manifest = {"kind": "runs", "steps": 50, "chunk": 128, "num_prompts": 3}
    metadata = {"hashes": content_hash(manifest)}  # training does not read that of the tensors
    sizes, measuring = [], []  # both at once: a start of Python with torch takes seconds
    for name, count in (("few", 3), ("many", 24)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "manifest.json").write_text(json.dumps(manifest))
        for index in range(count):
            save_file(chunk, folder / f"{index:05d}.safetensors", metadata=metadata)
        sizes.append(sum(path.stat().st_size for path in folder.iterdir()) / 1e6)
        command = [sys.executable, "-c", MEASURE, folder]
        measuring.append(
            subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
    printed = [each.communicate()[0] for each in measuring]
    assert [each.returncode for each in measuring] == [0, 0], printed
    peaks = [float(re.search(r"PEAK ([\d.]+)", text)[1]) for text in printed]
    print(f"{sizes[0]:.0f} and {sizes[1]:.0f} MB recorded: at most {peaks[0]:.0f} and {peaks[1]:.0f} MB of memory")
    assert sizes[1] > 400 and sizes[0] < 80
    assert abs(peaks[1] - peaks[0]) < 16
