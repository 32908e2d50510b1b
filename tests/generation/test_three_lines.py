"""Three lines sample from an export, with torch, numpy, safetensors and this package alone."""

import subprocess
import sys

import pytest
from runs import environment

HOOK = """
import sys
ALLOWED = {
    "biggan", "torch", "torchgen", "functorch", "numpy", "safetensors",
    # dependencies of torch:
    "typing_extensions", "sympy", "mpmath", "filelock", "fsspec", "jinja2", "markupsafe", "networkx", "setuptools",
    "pkg_resources", "_distutils_hack",
}
class ForbiddenImports:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in ALLOWED and top not in sys.stdlib_module_names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, ForbiddenImports())
"""


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=False, timeout=120
    )


def test_three_lines_sample_from_an_export(exported):
    lines = f"""
from biggan import load_generator
G = load_generator({str(exported)!r}, truncation=0.5)
images = G.sample(["a", "b"], count=6, seed=0)
print(images.shape, images.dtype, G.at(None).sample("c").std() > 1)
"""
    done = python(HOOK + lines)
    assert (done.stdout, done.returncode) == ("(6, 32, 32, 3) uint8 True\n", 0), done.stderr


@pytest.mark.parametrize("module", ["pydantic", "mlflow", "PIL"])
def test_import_hook_refuses_other_packages(module):
    assert "ModuleNotFoundError" in python(HOOK + f"import {module}").stderr


def test_importing_the_package_imports_no_dependency():
    done = python(
        "import sys\nbefore = {m.partition('.')[0] for m in sys.modules}\nimport biggan\n"
        "print({m.partition('.')[0] for m in sys.modules} - before - sys.stdlib_module_names)\n"
        "try:\n    biggan.load_generators\nexcept AttributeError as error:\n    print(error)"
    )
    assert done.stdout == "{'biggan'}\nmodule 'biggan' has no attribute 'load_generators'\n", done.stderr
