"""Importing less than everything: what serving leaves out, and that nothing of it shows afterwards."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(code: str) -> str:
    """What a fresh process prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


LOAD = """
import sys
from service.engine.engine import DiffusersEngine
from service.settings import Settings
engine = DiffusersEngine(Settings.read(warmup_steps=1, warmup_size=64{more}))
engine.load(lambda sentence, **more: None)
"""


def test_a_warm_engine_has_not_imported_what_it_does_not_use() -> None:
    unused = {"accelerate", "peft", "scipy", "sympy", "torch._dynamo", "torch.distributed.tensor", "torchsde"}
    unused |= {"transformers"}  # the package itself, which lists all of its models
    assert run(LOAD.format(more="") + f"print(sorted({unused} & set(sys.modules)))").splitlines()[-1] == "[]"


def test_the_installed_versions_can_be_trimmed() -> None:
    """Fails when a new version of diffusers or transformers does not get along with the trimmed import.

    The service would go on, with a cold start longer by what ``python -m bench.imports`` says: mend ``imports.py``, or
    let it go.
    """
    assert run("import service.engine.weights.imports as ours; print(ours.whole_because)") == "None"


def test_whatever_is_imported_later_is_whole() -> None:
    printed = run(
        "import service.engine.weights.imports as ours\n"
        "import sys, torch, importlib.util, importlib.metadata\n"
        "stand_ins = [name for name, module in list(sys.modules.items()) for value in list(vars(module).values())\n"
        "    if getattr(value, '__module__', '') == ours.__name__ and name.partition('.')[0] == 'torch']\n"
        "assert not stand_ins, stand_ins\n"
        "assert importlib.util.find_spec('scipy') is not None\n"
        "assert importlib.metadata.packages_distributions()\n"
        "import transformers.models, diffusers.models.unets, diffusers.models.transformers\n"
        "from diffusers import StableDiffusionPipeline, UNet2DConditionModel, FluxTransformer2DModel\n"
        "from transformers import CLIPTextModel, CLIPVisionModel, T5EncoderModel\n"
        "assert UNet2DConditionModel is ours.UNet2DConditionModel\n"
        "assert CLIPTextModel is ours.CLIPTextModel\n"
        "assert transformers.utils.is_torch_distributed_available() == torch.distributed.is_available()\n"
        "import torch._dynamo\n"
        "assert torch._dynamo.__file__ and torch.compile(lambda x: x + 1, backend='eager')(torch.ones(1)) == 2\n"
        "pipe = StableDiffusionPipeline.from_pretrained('service/demo_model', local_files_only=True)\n"
        "print(pipe('x', num_inference_steps=1, width=64, height=64).images[0].size)"
    )
    assert printed == "(64, 64)"


def test_a_library_that_cannot_be_trimmed_is_imported_plainly() -> None:
    printed = run(
        "import importlib.metadata, importlib.util, sys\n"
        "find, calls = importlib.util.find_spec, []\n"
        "def breaks(name, package=None):\n"
        "    if name == 'transformers.models' and not calls:\n"
        "        calls.append(name)\n"
        "        return None\n"
        "    return find(name, package)\n"
        "importlib.util.find_spec = breaks\n"
        + LOAD.format(more="")
        + "print(bool(calls), importlib.util.find_spec is breaks, 'diffusers.models.transformers' in sys.modules)"
    )
    assert printed.splitlines()[-1] == "True True True"
    assert "a cold start takes longer" in printed


def test_what_is_already_imported_is_used_as_it_is() -> None:
    printed = run(
        "import diffusers, transformers\n"
        "from diffusers import UNet2DConditionModel\n"
        "import service.engine.weights.imports as ours\n"
        "print(ours.UNet2DConditionModel is UNet2DConditionModel, diffusers.utils.is_scipy_available())"
    )
    assert printed == "True True"


@pytest.mark.timeout(600)
def test_compilation_knows_the_marks_that_the_libraries_set() -> None:
    printed = run(
        "import service.engine.weights.imports as ours, sys\n"
        "marked = [target for name, target in ours._marked if name == 'allow_in_graph']\n"
        "assert marked and 'torch._dynamo' not in sys.modules\n"
        "ours.prepare_compilation()\n"
        "from torch._dynamo.trace_rules import is_callable_allowed\n"
        "print(all(is_callable_allowed(target) for target in marked), ours._marked)"
    )
    assert printed == "True []"
