"""Record golden cases anew: `python tests/golden/record.py [CASE...]`; all without names.

A record (<case>.json) holds what the commands of a case (golden_cases.py) wrote when it was made:
events, metrics, configuration, tables, names of files and hashes of tensors. test_golden.py runs
the commands again and compares bit for bit, so that a change of the code which is to change no
result can show that it changes none.

Records are made anew only where results are meant to change, and each re-recording is justified in
its commit's message: what changed, in which cases, and why that is right. Where nothing but the
libraries changed, say so, and record all cases.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from golden_cases import CASES, GROUPS
from golden_run import carry_out

HERE = Path(__file__).resolve().parent


def main(names: list[str]) -> int:
    unknown = sorted(set(names) - set(CASES))
    if unknown:
        print(f"no such case: {', '.join(unknown)}; known: {', '.join(CASES)}")
        return 2
    failed = 0
    for group, cases in GROUPS.items():
        wanted = [name for name in cases if not names or name in names]
        if not wanted:
            continue
        with tempfile.TemporaryDirectory(prefix="golden-") as folder:
            carry_out(wanted, Path(folder))
            for name in wanted:
                made, kept = Path(folder) / f"{name}.json", HERE / f"{name}.json"
                if not made.is_file():
                    failed += 1
                    print(f"{group} {name}: failed\n{made.with_suffix('.error').read_text()}")
                    continue
                text = made.read_text(encoding="utf-8")
                known = kept.is_file() and kept.read_text(encoding="utf-8") == text
                kept.write_text(text, encoding="utf-8")
                print(f"{group} {name}: {'as before' if known else 'recorded'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
