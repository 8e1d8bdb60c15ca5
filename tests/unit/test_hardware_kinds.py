"""Workers by the name of their hardware: files, devices, what is not there."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from textwrap import dedent

import msgspec
import pytest

from baton.bench.planning.accuracy.configurator import case
from baton.bench.planning.hardware import same_model
from baton.bench.planning.hardware.devices import DEVICES
from baton.bench.planning.hardware.grid import STEPS, Step, fit
from baton.bench.planning.hardware.kinds import load_machine, worker_kinds
from baton.bench.planning.hardware.links import parse_link
from baton.bench.planning.hardware.made import made
from baton.bench.planning.hardware.published import read_distserve
from baton.bench.planning.hardware.roofline import Efficiency, Roofline
from baton.bench.planning.hardware.silicon import HOSTS, Silicon
from baton.bench.planning.models import model_shape
from baton.protocol.curves import LinkCurve, StepCurve, StepShape, attention_pairs
from baton.protocol.errors import ConfigError
from baton.protocol.profile import HeldOut, Pool, Profile, decode_profile, encode_profile

CURVE = StepCurve(base=5e-3, chunk=1e-3, token=2e-4, pair=1e-8, decode=3e-4, context=2e-7,
                  spread=0.1, steps=200)


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the optional package is there must not matter."""
    monkeypatch.setattr("baton.bench.planning.hardware.silicon._MODULES", ())


# -- profiles --------------------------------------------------------------------------------


def _profile(**more: object) -> Profile:
    return Profile(model="m", fingerprint="f", dtype="bfloat16", device="cpu", device_name="c",
                   threads=2, block_size=16, curve=CURVE, **more)  # type: ignore[arg-type]


def test_a_profile_states_pool_and_link(tmp_path: Path) -> None:
    pool = Pool(num_layers=4, num_kv_heads=2, head_dim=8, dtype="float32", blocks=77,
                max_model_len=512, max_running=12, max_batch_tokens=256)
    link = LinkCurve(latency=2e-3, byte=1e-9, spread=0.2, transfers=9)
    error = HeldOut(steps=9, median=0.04, p90=0.1, again_median=0.01, again_p90=0.02)
    path = tmp_path / "p.json"
    path.write_bytes(encode_profile(_profile(pool=pool, link=link, error=error)))
    assert json.loads(path.read_bytes())["link"]["latency"] == 2e-3  # people can read it
    [kind] = worker_kinds(str(path))
    machine = kind.machine
    assert (machine.num_blocks, machine.link, machine.curve) == (77, link, CURVE)
    assert (machine.layout.num_layers, machine.layout.dtype) == (4, "float32")
    assert machine.limits.max_running == 12
    assert machine.limits.max_batch_tokens == 256
    assert (kind.origin, kind.error, kind.devices) == ("measured", 0.04, 1)
    assert "assumed" not in kind.note


def test_an_older_profile_is_read_and_says_what_is_assumed(tmp_path: Path) -> None:
    plain = json.loads(encode_profile(_profile()))
    del plain["pool"], plain["link"]
    path = tmp_path / "p.json"
    path.write_text(json.dumps(plain))
    assert decode_profile(path.read_bytes()).pool is None
    [kind] = worker_kinds(str(path))
    assert kind.note.endswith("pool and link assumed")
    assert kind.machine.num_blocks > 100
    [faster] = worker_kinds(str(path), link=parse_link("10GB/s,2ms"))
    assert faster.machine.link.seconds(10**9) == pytest.approx(0.102)
    assert faster.machine.num_blocks == kind.machine.num_blocks


def test_a_link_in_words() -> None:
    assert parse_link("25GB/s").bandwidth == 25e9
    for text in ("25GB", "x/s", "0GB/s", "1GB/s,soon"):
        with pytest.raises(ConfigError, match="is no link such as"):
            parse_link(text)


# -- published -------------------------------------------------------------------------------


@pytest.fixture
def distserve(tmp_path: Path) -> Path:
    path = tmp_path / "fits.json"
    fit = {"decoding_large_small_bs_threshold": 96, "prefill": [18.0, 0.1, 7e-6],
           "decoding_smallbs": [20.0, 6e-4, 0.04], "decoding_largebs": [7.0, 6e-4, 0.16]}
    path.write_text(json.dumps({"facebook/opt-13b": {"1": fit, "2": fit}}))
    return path


def test_distserve_fits_are_exact_for_small_batches(distserve: Path) -> None:
    machine = load_machine(f"{distserve}:facebook/opt-13b:1")
    curve = machine.curve
    fits = read_distserve(distserve)["facebook/opt-13b"][1]
    assert curve.prefill_seconds(512, 0, 512) == pytest.approx(fits.prefill_seconds([512]))
    shape = StepShape.decodes(50, 50 * 500)
    assert curve.seconds(shape) == pytest.approx(fits.decode_seconds(50, 50 * 500))
    assert curve.seconds(shape) == pytest.approx(20e-3 + 50 * 0.04e-3 + 25_000 * 6e-7)


def test_large_batches_have_coefficients_of_their_own(distserve: Path) -> None:
    fits = read_distserve(distserve)["facebook/opt-13b"][1]
    assert fits.decode_seconds(95, 0) == pytest.approx(23.8e-3)
    assert fits.decode_seconds(200, 0) == pytest.approx(39e-3)
    both = fits.curve(192)
    for batch in (8, 64, 192):
        assert both.seconds(StepShape.decodes(batch, 500 * batch)) == pytest.approx(
            fits.decode_seconds(batch, 500 * batch), rel=0.15), batch
    # The fit of small ones alone is far off there.
    assert fits.curve(64).seconds(StepShape.decodes(192, 0)) < 0.8 * fits.decode_seconds(192, 0)


def test_all_sizes_of_a_file_or_some(distserve: Path) -> None:
    assert [kind.devices for kind in worker_kinds(str(distserve), "facebook/opt-13b")] == [1, 2]
    [two] = worker_kinds(f"{distserve}:facebook/opt-13b", tensor_parallel=[2])
    assert two.devices == 2
    with pytest.raises(ConfigError, match="workers of 1, 2 devices, none of 8"):
        worker_kinds(str(distserve), "facebook/opt-13b", tensor_parallel=[8])
    with pytest.raises(ConfigError, match="has facebook/opt-13b, not llama"):
        worker_kinds(f"{distserve}:llama:1")


def test_a_measurement_is_of_the_model_that_is_asked_for(tmp_path: Path, distserve: Path) -> None:
    path = tmp_path / "here.json"
    path.write_bytes(encode_profile(msgspec.structs.replace(_profile(), model="org/Small-1B")))
    for same in (None, "org/Small-1B", "small-1b", "/models/Small-1B", "/models/Small-1B.gguf"):
        assert worker_kinds(str(path), same)[0].origin == "measured"
    with pytest.raises(ConfigError, match=re.escape(
        "here.json was measured with org/Small-1B, not llama-3.1-8b: leave --model out, or "
        "`baton profile llama-3.1-8b --out FILE`"
    )):
        worker_kinds(str(path), "llama-3.1-8b")
    assert worker_kinds(str(path), dtype="bf16")
    with pytest.raises(ConfigError, match="measured in bfloat16, not float32"):
        worker_kinds(str(path), dtype="float32")
    with pytest.raises(ConfigError, match=r"is of facebook/opt-13b, not llama"):
        worker_kinds(f"{distserve}:facebook/opt-13b:1", "llama-3.1-8b")
    assert worker_kinds(f"{distserve}:facebook/opt-13b:1", "opt-13b")
    with pytest.raises(ConfigError, match="made is made of round figures"):
        worker_kinds("made", "llama-3.1-8b")


def test_files_of_another_name_may_be_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, files = tmp_path / "here.json", tmp_path / "copy"
    files.mkdir()
    path.write_bytes(encode_profile(_profile()))
    monkeypatch.setattr(same_model, "resolve_model", lambda spec: None)
    monkeypatch.setattr(same_model, "load_config", lambda source: None)
    monkeypatch.setattr(same_model, "fingerprint", lambda source, config, dtype: "f")
    assert worker_kinds(str(path), str(files))
    monkeypatch.setattr(same_model, "fingerprint", lambda source, config, dtype: "other")
    with pytest.raises(ConfigError, match="measured with m, not"):
        worker_kinds(str(path), str(files))


def test_splitwise_measurements_become_a_curve(tmp_path: Path) -> None:
    """Times of a known curve, in the columns of the file."""
    known = StepCurve(base=30e-3, chunk=1e-3, token=1e-4, pair=4e-9, decode=2e-4, context=2e-7,
                      spread=0.0, steps=1)
    lines = ["model,hardware,prompt_size,batch_size,token_size,peak_power,average_power,"
             "prompt_time,token_time,e2e_time,tensor_parallel"]
    for prompt in (128, 512, 1024, 2048, 4096):
        for batch in (1, 2, 4, 8, 16, 32):
            read = known.seconds(StepShape(batch, batch * prompt,
                                           batch * attention_pairs(prompt, 0)))
            write = known.seconds(StepShape.decodes(batch, batch * prompt))
            lines += [f"llama2-70b,h100-80gb,{prompt},{batch},128,1,1,{read * 1e3},"
                      f"{write * 1e3},1,8"] * 2
    path = tmp_path / "perf.csv"
    path.write_text("\n".join(lines))
    [kind] = worker_kinds(str(path), "llama2-70b")
    assert (kind.devices, kind.origin) == (8, "measured")
    assert kind.error is not None
    assert kind.error < 0.02
    for shape in (StepShape.decodes(20, 20_000), StepShape(1, 3000, attention_pairs(3000, 0))):
        assert kind.machine.curve.seconds(shape) == pytest.approx(known.seconds(shape), rel=0.05)
    with pytest.raises(ConfigError, match="llama2-70b@h100-80gb: other is not one of these"):
        worker_kinds(f"{path}:other")


# -- named devices ---------------------------------------------------------------------------


def test_a_device_needs_a_model_and_says_what_it_rests_on() -> None:
    with pytest.raises(ConfigError, match="of which model"):
        worker_kinds("h100")
    kinds = worker_kinds("H100", "llama-3.1-8b")
    assert [kind.devices for kind in kinds] == [1, 2, 4, 8]
    assert {kind.origin for kind in kinds} == {"roofline"}
    assert "pip install" in kinds[0].note
    assert all(kind.error and 0.05 < kind.error < 0.5 for kind in kinds)
    tokens = [kind.machine.num_blocks * kind.machine.layout.block_size for kind in kinds]
    # 80 GB x 0.92 - 2 GB - 16 GB of weights, at 128 KiB a token.
    assert tokens[0] == pytest.approx(424_000, rel=0.01)
    assert tokens == sorted(tokens)


def test_more_devices_are_faster_but_not_in_proportion() -> None:
    one, two, four, eight = (kind.machine.curve for kind in worker_kinds("h100", "qwen3-32b",
                             dtype="fp8"))
    prompt = [curve.prefill_seconds(4096, 0, 4096) for curve in (one, two, four, eight)]
    for slow, fast in pairwise(prompt):
        assert 1.2 < slow / fast < 2.0
    assert one.base > two.base > four.base > eight.base


def test_a_model_that_does_not_fit() -> None:
    assert [kind.devices for kind in worker_kinds("h100", "llama-3.1-70b")] == [4, 8]
    assert [kind.devices for kind in worker_kinds("h100", "llama-3.1-70b", dtype="fp8")] == [
        2, 4, 8]
    with pytest.raises(ConfigError, match=r"2 x 24 GB hold its 141 GB"):
        worker_kinds("a10", "llama-3.1-70b", tensor_parallel=[2])
    with pytest.raises(ConfigError, match="no multiple of 8"):
        worker_kinds("a10", "qwen2.5-7b", tensor_parallel=[8])


def test_a_roofline_is_what_its_figures_say() -> None:
    model, device = model_shape("llama-3.1-8b"), DEVICES["h100"]
    ideal = Efficiency(memory=1, products=1, attention=1, step=0, sequence=0)
    machine = Roofline(model, device, 1, ideal)
    weights = 2 * (model.layer_parameters + model.head_parameters)
    assert machine.seconds(Step(0, 0, 1, 0)) == pytest.approx(weights / 3.35e12)
    context = machine.seconds(Step(0, 0, 8, 4096)) - machine.seconds(Step(0, 0, 8, 0))
    assert context == pytest.approx(8 * 4096 * 131_072 / 3.35e12)
    prompt = machine.seconds(Step(1, 8192))
    products = 2 * model.layer_parameters * 8192 / 989e12
    attention = 4 * 32 * 4096 * attention_pairs(8192, 0) / 989e12
    head = 2 * model.head_parameters / 3.35e12
    assert prompt == pytest.approx(products + attention + head)
    # 8 bits halve what is read, and double the arithmetic where the device has it.
    narrow = Roofline(model.in_dtype("fp8"), device, 1, Efficiency(
        memory=1, products=1, products_fp8=1, attention=1, step=0, sequence=0))
    assert narrow.seconds(Step(1, 8192)) == pytest.approx(
        products * 989 / 1979 + attention + head)


def test_experts_are_read_as_far_as_tokens_go_to_them() -> None:
    machine = Roofline(model_shape("mixtral-8x7b"), DEVICES["h100"], 2, Efficiency(step=0))
    few, many = (machine.seconds(Step(0, 0, batch, 0)) for batch in (1, 64))
    assert many > 2.5 * few


def test_what_devices_are_known_is_said() -> None:
    with pytest.raises(ConfigError, match=r"cannot read nix: .*h100.*h200.*l40s"):
        worker_kinds("nix")
    with pytest.raises(ConfigError, match="one of silicon, roofline, vllm"):
        worker_kinds("h100:guess", "llama-3.1-8b")
    with pytest.raises(ConfigError, match="pip install"):
        worker_kinds("h100:silicon", "llama-3.1-8b")
    assert worker_kinds("made")[0].machine == made() == load_machine(None)


# -- the fit ---------------------------------------------------------------------------------


def test_a_curve_is_found_again_from_its_own_steps() -> None:
    found = fit(lambda step: CURVE.seconds(step.shape))
    assert found.error < 1e-3
    shape = StepShape.chunk(777, 100) + StepShape.decodes(20, 9000)
    assert found.curve.seconds(shape) == pytest.approx(CURVE.seconds(shape), rel=0.01)


def test_a_fit_says_how_far_it_is_off() -> None:
    found = fit(lambda step: max(0.01, 1e-4 * (step.prompts * step.tokens + step.sequences)))
    assert found.error > 0.02
    with pytest.raises(ValueError, match="more than nothing"):
        fit(lambda step: 0.0)


# -- measured kernels ------------------------------------------------------------------------


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package with the calls of the optional one; it notes what it was asked for."""
    package = tmp_path / "measured_kernels"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "engine.py").write_text(dedent("""
        import json, pathlib
        SEEN = []
        class EngineHandle:
            @classmethod
            def compile(cls, model, system, engine, **options):
                config = json.loads((pathlib.Path(model) / "config.json").read_text())
                SEEN.append((config, system, engine, options))
                if system == "l40s":
                    raise LookupError("no such table\\nat all")
                if options.get("kvcache_quant_mode") == "fp8" and engine == "sglang":
                    raise LookupError("no fp8 cache")
                return cls()
            def predict_prefill_latency(self, prompts, tokens):
                return 2.0 + 0.01 * prompts * tokens
            def decode_step_latency(self, sequences, context, output):
                return 2.0 + 0.05 * sequences + 1e-5 * sequences * context
            def mixed_step_latency(self, tokens, sequences, context, output):
                return 2.0 + 0.01 * tokens + 0.05 * sequences + 1e-5 * sequences * context
    """))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(
        "baton.bench.planning.hardware.silicon._MODULES", ("measured_kernels.engine",))
    yield package
    for name in [name for name in sys.modules if name.startswith("measured_kernels")]:
        del sys.modules[name]


def test_measured_kernels_come_first_and_their_host_is_added(kernels: Path) -> None:
    [kind] = worker_kinds("h200", "llama-3.1-8b", tensor_parallel=[2])
    assert (kind.origin, kind.devices) == ("silicon", 2)
    host = HOSTS["vllm"]
    assert kind.machine.curve.seconds(StepShape.decodes(16, 16_000)) == pytest.approx(
        2e-3 + 16 * 0.05e-3 + 1.6e-4 + host.step + 16 * host.sequence, rel=0.02)
    from measured_kernels.engine import SEEN  # type: ignore[import-not-found]

    config, system, engine, options = SEEN[-1]
    assert (system, engine, options) == ("h200_sxm", "vllm", {"tp_size": 2})
    assert (config["num_hidden_layers"], config["num_key_value_heads"]) == (32, 8)
    [other] = worker_kinds("h200:trtllm", "llama-3.1-8b", dtype="fp8", tensor_parallel=[1])
    assert SEEN[-1][2:] == ("trtllm", {
        "tp_size": 1, "gemm_quant_mode": "fp8_static", "kvcache_quant_mode": "bfloat16"})
    assert "trtllm" in other.note
    assert worker_kinds("h200:roofline", "llama-3.1-8b")[0].origin == "roofline"


def test_a_mixture_is_described_as_one(kernels: Path) -> None:
    worker_kinds("h100", "mixtral-8x7b", tensor_parallel=[4])
    from measured_kernels.engine import SEEN

    config, _, _, options = SEEN[-1]
    assert (config["num_experts"], config["num_experts_per_tok"]) == (8, 2)
    assert options == {"tp_size": 4, "moe_tp_size": 4}


def test_what_was_not_measured_is_a_roofline_unless_insisted(kernels: Path) -> None:
    [kind] = worker_kinds("l40s", "llama-3.1-8b", tensor_parallel=[1])
    assert kind.origin == "roofline"
    assert "no such table" in kind.note
    assert "at all" not in kind.note
    with pytest.raises(ConfigError, match=r"no measured kernels for llama-3\.1-8b .*no such table"):
        worker_kinds("l40s:silicon", "llama-3.1-8b")
    with pytest.raises(ConfigError, match="no model like opt-13b"):
        worker_kinds("h100:silicon", "opt-13b")
    assert worker_kinds("mi300x", "llama-3.1-8b")[0].origin == "roofline"


def test_the_planner_beside_the_configurator_of_the_same_kernels(kernels: Path) -> None:
    seen = case()
    # Of each request: 2 ms a step, 10 us a prompt token, 50 us and 42.5 us a written one.
    work, write = 4000 * 1e-5, 499 * (50e-6 + 4249.9e-5 * 1e-3)
    rate = (1 - 2 / 15) / (work + write)
    assert seen.colocated[1] == pytest.approx(rate * 500, rel=0.03)
    assert seen.colocated[2] == pytest.approx(rate * 250, rel=0.03)
    # Of the split, the one that writes binds: as many as 15 ms have room for, every 15 ms.
    each = write / 499 * 1e3
    assert seen.split == pytest.approx(13 / each / (499 * 0.015) * 500 / 4, rel=0.03)
    slower = (15 - 2 * 1.08) / (1.08 * each) / (499 * 0.015) * 500 / 4
    assert seen.split_as_theirs == pytest.approx(0.92 * slower, rel=0.03)
    assert seen.split_hosted < seen.split
    assert seen.colocated_hosted[1] < seen.colocated[1]


def test_a_cache_in_8_bits_only_where_that_was_measured(kernels: Path) -> None:
    shape = model_shape("llama-3.1-8b", "fp8")
    from measured_kernels.engine import SEEN

    for engine, wanted in (("trtllm", "fp8"), ("sglang", "bfloat16")):
        Silicon(shape, "h100_sxm", 1, engine, kv_fp8=True)
        assert SEEN[-1][3]["kvcache_quant_mode"] == wanted


def test_the_grid_covers_what_is_planned() -> None:
    assert max(step.prompts * step.tokens for step in STEPS) == 8192
    assert max(step.sequences for step in STEPS) == 256


@pytest.mark.parametrize("step", [Step(24, 200), Step(12, 600), Step(48, 100), Step(40, 200)])
@pytest.mark.parametrize(("model", "device", "size"), [
    ("llama-3.1-8b", "h100", 1), ("llama-3.1-70b", "h200", 4), ("llama-3.1-8b", "a100", 1),
])
def test_many_short_prompts_take_what_they_should(
    model: str, device: str, size: int, step: Step
) -> None:
    """None of these is a step that the curve was fitted to. A sum of costs that grow together was
    a fifth too fast for them."""
    assert step not in STEPS
    machine = Roofline(model_shape(model), DEVICES[device], size)
    assert machine.curve().curve.seconds(step.shape) == pytest.approx(
        machine.seconds(step), rel=0.13)
