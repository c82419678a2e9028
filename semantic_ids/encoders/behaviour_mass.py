"""Behaviour encoder whose alignment is strong for items with many clicks (MMQ-v2, arXiv 2510.25622)."""

from __future__ import annotations

from semantic_ids.encoders.behaviour import BehaviourEncoder


class BehaviourMassEncoder(BehaviourEncoder):
    """:class:`BehaviourEncoder` with the loss of a pair weighted by the behaviour mass of its items.

    The mass of an item with ``n`` clicks is ``min(1, log(1 + n) / log(1 + mass_clicks))``, and the weight of a pair is the
    smaller mass of its two items, relative to the mean of the batch. Pairs of items with few clicks, whose neighbours are
    mostly chance, then hardly move the projection. The paper states that the alignment grows with the behaviour of an item;
    the form is ours. Clicks are those of the pairs: positives before the cut-off of the fit.

    Parameters
    ----------
    dim, hidden, input_dim, ridge, content_weight, temperature, log_q, batch, steps, patience, held_out, learning_rate
        See :class:`~semantic_ids.encoders.behaviour.BehaviourEncoder`, as are the next three.
    weight_decay, seed, threads
        See there.
    mass_clicks : float
        Clicks from which an item has mass 1; 0 weighs all pairs the same, as :class:`BehaviourEncoder` does.
    shuffled_mass : bool
        Control: every item has the mass of a random one.

    References
    ----------
    MMQ-v2, later "Taming the Long Tail" (arXiv 2510.25622).

    Examples
    --------
    >>> import numpy as np
    >>> from semantic_ids.encoders.behaviour_mass import BehaviourMassEncoder
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(200, 16)).astype("float32")
    >>> trigger = rng.integers(0, 200, 1000)
    >>> pairs = np.stack([trigger, (trigger + rng.integers(1, 200, 1000)) % 200], axis=1)
    >>> BehaviourMassEncoder(dim=8, hidden=16, steps=25).fit_transform(x, pairs).shape
    (200, 8)
    """

    name = "behaviour_mass"

    def __init__(
        self,
        dim: int = 64,
        hidden: int = 256,
        input_dim: int = 256,
        ridge: float = 0.1,
        content_weight: float = 0.0,
        temperature: float = 0.07,
        log_q: float = 1.0,
        batch: int = 1024,
        steps: int = 3000,
        patience: int = 8,
        held_out: float = 0.1,
        learning_rate: float = 3e-3,
        weight_decay: float = 0.1,
        seed: int = 0,
        threads: int = 1,
        mass_clicks: float = 50.0,
        shuffled_mass: bool = False,
    ) -> None:
        super().__init__(
            dim, hidden, input_dim, ridge, content_weight, temperature, log_q, batch, steps, patience, held_out,
            learning_rate, weight_decay, seed, threads,
        )  # fmt: skip
        self.mass_clicks = mass_clicks
        self.shuffled_mass = shuffled_mass
