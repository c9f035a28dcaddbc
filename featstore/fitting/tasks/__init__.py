"""What a fit does by what a label is: one class, several classes, or a number."""

from featstore.fitting.tasks.base import Evaluation, Task
from featstore.fitting.tasks.classification import Classification
from featstore.fitting.tasks.multilabel import Multilabel
from featstore.fitting.tasks.regression import Regression

FIT_TASKS: dict[str, Task] = {
    task.name: task for task in (Classification(), Multilabel(), Regression())
}


def find_task(name: str) -> Task:
    """Return the task of a name, one of :data:`featstore.config.TASKS`."""
    return FIT_TASKS[name]


__all__ = ["Evaluation", "Task", "find_task"]
