# SPDX-License-Identifier: Apache-2.0
"""A namespace: a name and labels that speak for every workload in it."""

from dataclasses import dataclass

from mesh.model.labels import NO_LABELS, Labels
from mesh.model.names import check_dns_label

__all__ = ["Namespace"]


@dataclass(frozen=True, slots=True)
class Namespace:
    """One namespace. One that no source ever named is a namespace without labels."""

    name: str
    labels: Labels = NO_LABELS

    def __post_init__(self) -> None:
        check_dns_label(self.name, "namespace")
