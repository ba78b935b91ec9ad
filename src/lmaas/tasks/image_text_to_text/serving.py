"""The task `image-text-to-text`: a conversation with images in, text out."""

from lmaas.tasks.base import Task
from lmaas.tasks.generating import GeneratingTask
from lmaas.tasks.image_text_to_text.spec import SPEC

TASK: Task = GeneratingTask(SPEC, ("text", "image"))
