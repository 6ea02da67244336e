"""The table of Ray clusters of several nodes."""

from typing import Any

from benchmarks.pages.markdown import NOT_MEASURED, of_result, table


@of_result("cluster.json")
def cluster(result: Any) -> str:
    """Return a row for each section of `benchmarks.cluster`."""
    sections, rows = result["sections"], []
    if score := sections.get("score"):
        seconds = ", ".join(
            f"{value:.0f} s on {name.replace('1 nodes', '1 node')}" for name, value in score["seconds"].items()
        )
        same = "the same table" if score["same"] and score["each_once"] else "**other tables**"
        rows.append([f"`make score` of {score['images']:,} images", f"{same}: {seconds}", "the same"])
    if losses := sections.get("losses"):
        largest = max(run["largest_difference"] for run in losses)
        top_1 = max(abs(run["top_1"]["alone"] - run["top_1"]["nodes"]) for run in losses)
        result_text = f"losses differ by at most {largest:.1e}, test top-1 by {100 * top_1:.1f} points"
        action = f"two nodes against one process, {losses[0]['steps']} steps, {len(losses)} seeds"
        rows.append([action, result_text, "1e-4; 1 point"])
    if deaths := sections.get("deaths"):
        ended = sum(run["epochs"] == run["asked"] for run in deaths)
        repeated = max(run["repeated"] for run in deaths)
        result_text = f"{ended} ended with all epochs; at most {repeated} trained twice"
        rows.append([f"{len(deaths)} trainings on three nodes, one killed in each", result_text, "all; 1"])
    return table(["what was done", "what came of it", "goal"], rows) if rows else NOT_MEASURED
