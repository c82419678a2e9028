"""The ranker: item representations, user histories, and the DNN head over both and the numeric features."""
