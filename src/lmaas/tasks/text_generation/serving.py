"""The task `text-generation`: a conversation or prompt in, text out."""

from lmaas.tasks.base import Task
from lmaas.tasks.generating import GeneratingTask
from lmaas.tasks.text_generation.spec import SPEC

TASK: Task = GeneratingTask(SPEC)
