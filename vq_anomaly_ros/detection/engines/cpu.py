"""What the engines of a CPU have in common: arrays of ours for every batch size, and twins."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np

from vq_anomaly_ros.detection.engines import EngineError
from vq_anomaly_ros.detection.model_file import ModelFile

Graph = TypeVar('Graph')


@dataclass(frozen=True)
class _Batch:
    """One batch size. A runtime keeps addresses only: this object keeps the arrays alive."""

    run: Callable[[], object]
    image: np.ndarray
    results: dict[str, np.ndarray]


class CpuEngine(ABC, Generic[Graph]):
    """An engine whose inputs and outputs lie in arrays of ours; twins share its graph.

    title: the runtime's, in messages; other: the backend to try instead; errors: what its calls
    raise.
    """

    takes_frames = False
    title: ClassVar[str]
    other: ClassVar[str]
    errors: ClassVar[type[Exception]]

    def __init__(
        self, model: ModelFile, outputs: Sequence[str], graph: Graph, description: str
    ) -> None:
        """graph: what the runtime made of the model, with these outputs."""
        self._model = model
        self._outputs = tuple(outputs)
        self._graph: Graph | None = graph
        self._batches: dict[int, _Batch] = {}
        self.description = description

    def input_buffer(self, batch: int, size: tuple[int, int] | None = None) -> np.ndarray:
        """See Engine.input_buffer; the first call of a batch size prepares the graph for it."""
        return self._prepare(batch).image

    def infer(self, batch: int, size: tuple[int, int] | None = None) -> dict[str, np.ndarray]:
        """See Engine.infer."""
        prepared = self._prepare(batch)
        try:
            prepared.run()
        except self.errors as error:
            raise self.failure(self._model, 'failed on a frame', error) from error
        return prepared.results

    def twin(self) -> Self:
        """See StreamEngine.twin."""
        twin = copy.copy(self)
        twin._batches = {}
        twin._prepare(1)
        return twin

    def close(self) -> None:
        """See Engine.close."""
        self._batches.clear()
        self._graph = None

    @classmethod
    def failure(cls, model: ModelFile, what: str, error: Exception) -> EngineError:
        """What to raise where the runtime cannot do something with a model."""
        cause = ' '.join(str(error).split())[-300:]
        return EngineError(
            f'{model.path}: {cls.title} {what} ({cause}): export the model again with '
            f'`python -m training.export` or try backend {cls.other}'
        )

    @abstractmethod
    def _bind(
        self, graph: Graph, batch: int, image: np.ndarray, results: Mapping[str, np.ndarray]
    ) -> Callable[[], Any]:
        """Return what runs the graph on these arrays; raises `errors`."""

    def _opened(self) -> Graph:
        if self._graph is None:
            raise EngineError(f'{self._model.path}: the engine was closed, open another')
        return self._graph

    def _prepare(self, batch: int) -> _Batch:
        graph = self._opened()
        if batch not in self._batches:
            layouts = self._model.info.output_layouts()
            image = np.zeros((batch, *self._model.info.input_size, 3), np.uint8)
            results = {
                name: np.zeros((batch, *layouts[name][1]), layouts[name][0])
                for name in self._outputs
            }
            try:
                run = self._bind(graph, batch, image, results)
            except self.errors as error:
                raise self.failure(self._model, 'cannot compile the graph', error) from error
            self._batches[batch] = _Batch(run, image, results)
        return self._batches[batch]
