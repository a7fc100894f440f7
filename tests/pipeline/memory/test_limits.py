from pathlib import Path

import psutil
import pytest
from headstart.pipeline.memory import limits
from headstart.pipeline.memory.limits import free_memory, memory_limit, rows_in_memory, total_memory


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Control groups with files of one's own."""
    monkeypatch.setattr(limits, "_GROUPS", tmp_path)
    read = Path.read_text

    def make(of_process: str, files: dict[str, str]) -> None:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        monkeypatch.setattr(
            Path, "read_text", lambda path, *a: of_process if str(path) == "/proc/self/cgroup" else read(path, *a)
        )

    return make


def test_a_number_is_gibibytes_and_0_a_quarter_of_all(groups) -> None:
    groups("", {})
    assert memory_limit(1.5) == 3 << 29
    assert memory_limit(0) == psutil.virtual_memory().total // 4
    assert rows_in_memory(2048, 1.0) == 131_072


def test_the_smallest_limit_of_a_control_group_counts(groups) -> None:
    groups(
        "0::/batch/job\n",
        {
            "memory.max": "max\n",
            "batch/memory.max": "2000000\n",
            "batch/memory.current": "1500000\n",
            "batch/memory.stat": "anon 3\ninactive_file 400000\n",
            "batch/job/memory.max": "4000000\n",
            "batch/job/memory.current": "1\n",
            "batch/job/memory.stat": "inactive_file 0\n",
        },
    )
    assert total_memory() == 2_000_000
    assert free_memory() == 900_000


def test_version_1_of_control_groups(groups) -> None:
    groups(
        "9:name=systemd:/\n4:cpu,memory:/docker/abc\n0::/\n",  # in a container, its own group is the root
        {
            "memory/memory.limit_in_bytes": "3000000\n",
            "memory/memory.usage_in_bytes": "1000000\n",
            "memory/memory.stat": "total_inactive_file 100000\n",
        },
    )
    assert total_memory() == 3_000_000
    assert free_memory() == 2_100_000


@pytest.mark.parametrize("text", ["9223372036854771712\n", "max\n", "nonsense\n", ""])
def test_groups_without_a_limit_do_not_count(text: str, groups) -> None:
    groups("4:memory:/\n", {"memory/memory.limit_in_bytes": text})
    assert total_memory() == psutil.virtual_memory().total
