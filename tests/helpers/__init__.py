"""What several tests share: builders of small repos, oracles, processes that are killed."""
