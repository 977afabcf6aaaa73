"""A short form of benchmarks/fuzz_readers.py; the long form runs 10,000 cases."""

from benchmarks.fuzz_readers import fuzz, real_files
from tests.real_data import REAL, needs_real


@needs_real
def test_mutated_real_files_parse_or_raise_the_projects_error(tmp_path):
    report = fuzz(real_files(REAL, tmp_path), cases=300, seed=1, folder=tmp_path)
    assert report.cases == 300
    assert not report.failures, report.failures[0]
    assert report.refused > 100 and report.parsed > 10
