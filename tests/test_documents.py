"""README and CONTRIBUTING: every command is run somewhere, and what they name exists.

The running itself is `make readme-check` (see `documents.py`).
"""

import re
import subprocess
from pathlib import Path

import pytest

from configs import default
from tests import documents
from tests.documents import CLONING, ELSEWHERE, ROOT, SMALLER, read_blocks

DOCUMENTS = ("README.md", "CONTRIBUTING.md")


def all_commands():
    blocks = [b for name in DOCUMENTS for b in read_blocks(ROOT / name)]
    return [c for b in blocks if b.language == "sh" for c in b.commands]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_blocks_are_fenced_and_say_their_language(name):
    """An indented block would be neither read nor run."""
    assert read_blocks(ROOT / name)
    text = re.sub(r"```.*?```", "", (ROOT / name).read_text(), flags=re.DOTALL)
    assert not re.search(r"\n\n {4,}\S", text)


def test_ci_checks_the_documents_and_runs_what_they_leave_to_it():
    assert "make readme-check" in (ROOT / ".ci/run").read_text()
    check = (ROOT / "Makefile").read_text().split("readme-check:")[1]
    assert all(name in check.split("\n\n")[0] for name in DOCUMENTS)
    for command, (file, words) in ELSEWHERE.items():
        assert words in (ROOT / file).read_text(), f"{file} does not run {command}"


def test_every_make_target_that_a_document_names_exists():
    """In a fenced block, an indented one or a line of text."""
    pages = [ROOT / name for name in DOCUMENTS] + sorted((ROOT / "docs").glob("*.md"))
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([\w./-]+):(?!=)", makefile, re.MULTILINE))
    named = {}
    for page in pages:
        text = page.read_text()
        for name in re.findall(r"(?:`|^ *)make\s+([a-z][\w./-]*)", text, re.MULTILINE):
            named.setdefault(name, page.name)
    assert {"demo", "pod-sim", "ablations-quick", "bench", "jhmdb-tinypose"} <= set(
        named
    )
    assert not {name: page for name, page in named.items() if name not in targets}


def test_the_copy_is_a_clone_with_the_uncommitted_changes(tmp_path):
    root, copy = tmp_path / "root", tmp_path / "copy"

    def git(*arguments):
        who = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
        subprocess.run(["git", "-C", root, *who, *arguments], check=True)

    subprocess.run(["git", "init", "--quiet", root], check=True)
    for name in ("kept", "changed", "deleted"):
        (root / name).write_text("committed")
    (root / ".gitignore").write_text("ignored")
    git("add", ".")
    git("commit", "--quiet", "--message=all")
    (root / "deleted").unlink()
    for name in ("changed", "folder/new", "ignored"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("not committed")
    documents.copy_repository(root, copy)
    found = {p.name: p.read_text() for p in copy.iterdir() if p.is_file()}
    assert found.pop(".gitignore") and (copy / ".git").is_dir()
    assert found == {"kept": "committed", "changed": "not committed"}
    assert (copy / "folder/new").read_text() == "not committed"


def test_the_tables_have_no_stale_entry():
    commands = all_commands()
    assert not [c for c in (*CLONING, *ELSEWHERE) if c not in commands]
    assert not [s for s in SMALLER if not any(c.startswith(s) for c in commands)]


def test_diffs_still_apply():
    """Faster to learn here than from the whole walk."""
    for block in read_blocks(ROOT / "CONTRIBUTING.md"):
        if block.language == "diff":
            done = subprocess.run(
                ["git", "apply", "--check", "-"],
                input=block.text,
                cwd=ROOT,
                text=True,
                capture_output=True,
            )
            assert not done.returncode, f"CONTRIBUTING.md:{block.line}: {done.stderr}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name):
    text = (ROOT / name).read_text()
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if link.startswith("#"):
            assert link[1:] in anchors, link
        elif not link.startswith("http"):
            assert (ROOT / link).exists(), link


def test_files_and_fields_that_the_readme_names_exist():
    text = (ROOT / "README.md").read_text()
    quoted = set(re.findall(r"`([^`\n]+)`", text))
    for name in quoted:
        if re.fullmatch(
            r"(configs|data_pipelines|tdpose_jax|tests|docs)/[\w/.]*", name
        ):
            assert (ROOT / name).exists() or name == "docs/api", name
        match = re.fullmatch(r"(data|model|loss|optim|train|eval)\.(\w+)", name)
        if match:
            assert match[2] in default.get_config()[match[1]], name


def test_a_failing_block_is_not_passed_over(tmp_path):
    """And neither is a block of no language, nor one that is never closed."""
    document = tmp_path / "DOC.md"
    document.write_text("```sh\ntrue\nfalse | true\n```\n")
    with pytest.raises(subprocess.CalledProcessError):
        documents.follow(document, tmp_path)
    document.write_text("```\nls\n```\n")
    with pytest.raises(ValueError, match=r"DOC.md:1: one of \('sh', 'python'"):
        read_blocks(document)
    document.write_text("```sh\nls\n")
    with pytest.raises(ValueError, match="DOC.md:2: this block is not closed"):
        read_blocks(document)


def test_blocks_make_files_apply_diffs_and_run(tmp_path):
    document = tmp_path / "DOC.md"
    document.write_text(
        "```python\n# new.py\nprint(1)\n```\n"
        "```diff\n--- a/new.py\n+++ b/new.py\n@@ -1 +1 @@\n-print(1)\n+print(2)\n```\n"
        "```sh\npython new.py \\\n    > out.txt\n```\n"
        "```python\nassert open('out.txt').read() == '2\\n'\n```\n"
        "```bibtex\n@nonsense\n```\n"
    )
    documents.follow(document, tmp_path)


def test_extra_arguments_join_the_command_they_belong_to():
    line = "python -m tdpose_jax.ablations --rows=a"
    assert documents.smaller(line) == f"{line} --set train.num_steps=2"
    assert documents.smaller("python x.py") == "python x.py"
    assert not any(Path(c).is_absolute() for c in all_commands())
