"""Describe fingerprints to a person, with the values of options in place of hashes and numbers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from headstart.features.backbones.zoo import RESCALINGS
from headstart.features.store.store import FeatureStore

_DIGEST_SHOWN = 12  # letters


def told_differences(differs: Mapping[str, Mapping[str, Any]], weights: Mapping[str, str]) -> Iterator[str]:
    """Yield a phrase for each field of `differs`, the result of `Fingerprint.differences`.

    `weights` maps digests of weights to values of `--weights`.
    """
    for name, both in differs.items():
        asked, there = (told_value(name, both[side], weights) for side in ("asked", "there"))
        yield f"{name}: asked for {asked}, there {there}"


def told_stores(stores: Sequence[FeatureStore], weights: Mapping[str, str]) -> list[str]:
    """Return a text for each store: the name of its folder, and the fields in which `stores` differ.

    `weights` maps digests of weights to values of `--weights`.
    """
    all_fields = [store.fingerprint.to_json() for store in stores]
    names = sorted({name for fields in all_fields for name in fields})
    differing = [name for name in names if any(fields.get(name) != all_fields[0].get(name) for fields in all_fields)]

    def told(fields: Mapping[str, Any]) -> str:
        return ", ".join(f"{name} {told_value(name, fields.get(name), weights)}" for name in differing)

    return [f"{store.folder.name} ({told(fields)})" for store, fields in zip(stores, all_fields, strict=True)]


def told_value(name: str, value: Any, weights: Mapping[str, str]) -> str:
    """Return the value of a fingerprint's field as text. `name` is the field's name.

    `weights` maps digests of weights to values of `--weights`.
    """
    if name == "rescale":
        known = (kind for kind, rescaling in RESCALINGS.items() if _plain(rescaling.to_json()) == _plain(value))
        return next(known, str(value))
    if name == "weights" and value in weights:
        return f"{weights[value]} ({value[:_DIGEST_SHOWN]})"
    return "none" if value is None else str(value)


def _plain(rescaling: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, Sequence) else value for name, value in rescaling.items()}
