"""Ray without processes: a call of an actor is made at once. Its result may come later, never, or be a death."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

PENDING = object()  # the result of a call that does not return


class RayError(Exception):
    """The death of a worker."""


class RayTaskError(RayError):
    """An error that a worker raised."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


@dataclass(eq=False)
class Reference:
    """The reference to a result."""

    result: Any


@dataclass
class Method:
    """A method of an actor."""

    call: Callable[..., Any]

    def remote(self, *arguments: Any, **named: Any) -> Reference:
        """Call the method."""
        try:
            return Reference(self.call(*arguments, **named))
        except RayError as error:
            return Reference(error)
        except Exception as error:
            return Reference(RayTaskError(error))


class Actor:
    """An actor."""

    def __init__(self, worker: Any) -> None:
        self.worker = worker

    def __getattr__(self, name: str) -> Method:
        return Method(getattr(self.worker, name))


@dataclass
class FakeRay:
    """A cluster. `nodes_by_id` are the resources of its nodes, and `make` makes a worker for a node."""

    nodes_by_id: dict[str, dict[str, float]]
    make: Callable[[str], Any]
    killed: list[Actor] = field(default_factory=list)
    dead: set[str] = field(default_factory=set)  # nodes that have died

    def __post_init__(self) -> None:
        near = SimpleNamespace(NodeAffinitySchedulingStrategy=lambda node, soft: node)
        self.exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
        self.util = SimpleNamespace(scheduling_strategies=near)

    def nodes(self) -> list[dict[str, Any]]:
        """As `ray.nodes`."""
        return [
            {"Alive": name not in self.dead, "NodeID": name, "NodeManagerHostname": name, "Resources": resources}
            for name, resources in self.nodes_by_id.items()
        ]

    def get_runtime_context(self) -> Any:
        """As `ray.get_runtime_context`."""
        return SimpleNamespace(get_node_id=lambda: next(iter(self.nodes_by_id)))

    def remote(self, worker: Any) -> Any:
        """As `ray.remote`."""
        return SimpleNamespace(
            options=lambda scheduling_strategy, **_: SimpleNamespace(
                remote=lambda *_: Actor(self.make(scheduling_strategy))
            )
        )

    def wait(
        self, references: Sequence[Reference], num_returns: int = 1, timeout: float | None = None
    ) -> tuple[list[Reference], list[Reference]]:
        """As `ray.wait`, but without waiting."""
        ready = [one for one in references if one.result is not PENDING][:num_returns]
        return ready, [one for one in references if one not in ready]

    def get(self, reference: Reference) -> Any:
        """As `ray.get`."""
        if isinstance(reference.result, Exception):
            raise reference.result
        return reference.result

    def kill(self, actor: Actor) -> None:
        """As `ray.kill`."""
        self.killed.append(actor)
