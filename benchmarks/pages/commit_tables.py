"""The table of docs/commit.md: when a pushed commit answers, and which do not."""

from pathlib import Path

from benchmarks.pages.markdown import NOT_MEASURED, load, table


def push(results: Path) -> str:
    """Make the table."""
    document = load(results / "push.json")
    if document is None:
        return NOT_MEASURED
    good, broken = document["good"], document["broken"]
    seconds = f"{document['median']:.0f} s (median), {document['slowest']:.0f} s (slowest)"
    rows = [
        (f"{len(good)} commits that change a model: from passed tests to an answer of the commit", seconds, "300 s"),
        *(
            (f"a commit that {name}", f"{row['of_commit']} of {row['answers']:,} answers are of it", "0")
            for name, row in broken.items()
        ),
    ]
    all_rows = [*good, *broken.values()]
    failed, other = (sum(row[key] for row in all_rows) for key in ("failed", "other_answers"))
    answers = sum(row["answers"] for row in all_rows)
    rows.append(("all requests meanwhile", f"{failed} failed, {other} answered otherwise, of {answers:,}", "0, 0"))
    caption = f"`{document['command']}`: a narrow ResNet-18-D at 64 x 64, fp32; the caller uses the same cores."
    return table(["what was pushed", "what came of it", "goal"], rows) + f"\n\n{caption}"
