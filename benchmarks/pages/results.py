"""The tables of the documentation: each is made from the results of one benchmark only."""

from collections.abc import Callable
from pathlib import Path

from benchmarks.gpu import page
from benchmarks.pages import (
    capacity_tables,
    cluster_tables,
    commit_tables,
    container_tables,
    gateway_tables,
    monitoring_tables,
    network_tables,
    operations_tables,
    scale_tables,
    serving_tables,
    training_tables,
    trial_tables,
)  # fmt: skip

TABLES: dict[str, Callable[[Path], str]] = {
    "accuracy": training_tables.accuracy,
    "rates": serving_tables.rates_in_short,
    "real": training_tables.real,
    "fewest": training_tables.fewest,
    "up": training_tables.up,
    "few_images": training_tables.few_images,
    "prepare": training_tables.prepare,
    "inspection": training_tables.inspection,
    "familiarity": training_tables.familiarity,
    "training": training_tables.training,
    "variants": network_tables.variants,
    "search": network_tables.search,
    "reference_loop": scale_tables.reference_loop,
    "epoch": scale_tables.epoch,
    "score": scale_tables.score,
    "formats": serving_tables.formats,
    "serving": serving_tables.serving,
    "worker": serving_tables.worker,
    "sweep": serving_tables.sweep,
    "decoders": serving_tables.decoders,
    "int8": serving_tables.int8,
    "networks": serving_tables.networks,
    "accuracy_and_rate": serving_tables.accuracy_and_rate,
    "drift": monitoring_tables.drift,
    "monitoring_served": monitoring_tables.served,
    "monitoring_cost": monitoring_tables.cost,
    "monitoring_counts": monitoring_tables.counts,
    "operations": operations_tables.operations,
    "shadow": trial_tables.shadow,
    "cluster": cluster_tables.cluster,
    "gateway": gateway_tables.gateway,
    "push": commit_tables.push,
    "image": container_tables.container,
    "capacity": capacity_tables.capacity,
    "explanations": serving_tables.explanations,
    "gpu": page.gpu,
}
