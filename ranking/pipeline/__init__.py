"""The main job (`sidkit run`): from a click log to an online score, stage by stage, resumable."""
