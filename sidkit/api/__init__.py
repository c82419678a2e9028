"""The Python API: a project is one repository, with a method for every step of its life.

The command line calls these methods, so that both do the same.
"""

from ranking.data.project_dataset import ProjectDataset
from sidkit.api.codebooks import ProjectCodebook
from sidkit.api.project import Project, init, open_project
from sidkit.api.scoring import ProjectScorer

__all__ = ["Project", "ProjectCodebook", "ProjectDataset", "ProjectScorer", "init", "open_project"]
