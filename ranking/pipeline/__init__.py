"""The main job (`sidkit run`): resumable stages from a click log to online scores."""
