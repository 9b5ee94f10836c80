"""The work of one example by formula: operations of matrix products. No torch.

With ``M`` the weights of a block's linears (12 D^2 for a standard block) and ``A`` the width of its attention (D), a
block over ``T`` positions takes

    forward              2 M T + 4 T^2 A
    activation gradient  2 M T + 8 T^2 A      for every block above the frozen depth
    weight gradient      2 M' T               for the weights M' that train (``full``)
    added matrices       2 p T each way       for the p weights of LoRA and adapters: forward and both gradients
    prompts              P positions more     in every block above; their generator, forward and both gradients
    prefixes             4 P T A each way     P keys and values more to attend to in a block
    IDPG                 one forward more     of all blocks over the text

In the first block that trains, gradients flow only down to its lowest trained part: the walk of ``block_flops.py``
follows them role by role, so that its count is that of ``torch.utils.flop_counter``, to the last operation
(tests/costs/test_flops.py), whether a block's norms follow its parts, as BERT's do, or precede them.
Elementwise work (biases, norms, dropout), the optimiser and the look-up of embeddings are left out, and so is DoRA's
norm (R in out a role, but once a step and not for each token).
"""

from __future__ import annotations

from stratatune.costs.block_flops import Block, Work, block_work
from stratatune.plan import Resolved, Shape
from stratatune.plan.methods import Insertion
from stratatune.shapes.shape import LM_OBJECTIVES, POOLED


def example(
    resolved: Resolved,
    tokens: int,
    head: str,
    *,
    read_last: bool = False,
    labels: int = 0,
    words: int = 0,
    places: float = 1.0,
) -> tuple[Work, Work]:
    """The work of one example of ``tokens`` positions, padding included: (trunk, top).

    Args:
        resolved: the plan on its model.
        tokens: T.
        head: the name of the head that runs.
        read_last: whether the last block computes queries, output and FFN only at the position that the head reads.
        labels: outputs of a classification head; 0 leaves its last layer out.
        words: label words whose rows alone a language-model head computes (``loss: words``); 0: the whole vocabulary.
        places: the number of positions at which the head runs: one, unless the objective reads more of them, or
            transformers' own head runs at all.
    """
    shape = resolved.shape
    trunk, top, length, arrives = Work(), Work(), tokens, resolved.trains_embeddings
    ran: dict[int, Block] = {}
    for number, methods in enumerate(resolved.blocks):
        for one in (one for depth, one in resolved.insertions if depth == number):
            top += _inserted(one, shape, length, arrives)
            top.forward += one.rereads * reread(shape, tokens)
            length, arrives = length + one.prompt, True
        if number == shape.border:  # a decoder reads the prompts of its encoder, and computes nothing at them
            length = tokens
        queries = 1 if read_last and number == shape.blocks - 1 else length
        read = ran.get(shape.reads.get(number, -1))
        block = Block(shape.of_block(number), methods, length, queries, read, resolved.trains_embeddings)
        arrives = block.run(arrives)
        ran[number] = block
        if number < resolved.cached_depth:
            trunk += block.work
        else:
            top += block.work
    for one in (one for depth, one in resolved.insertions if depth == shape.blocks):
        behind = length if shape.read_at_end and not read_last and resolved.frozen_depth < shape.blocks else 1
        top += _inserted(one, shape, behind, arrives)
        arrives = True
    top += head_work(resolved, head, arrives, labels, words).times(places)
    return trunk, top


def reads_one(shape: Shape, objective: str, positions: str | None = None) -> bool:
    """Whether our loop runs the last block of this model only at the position that the objective's head reads.

    ``positions``: those that the settled objective reads (``Objective.positions``); None: those of its kind.
    """
    from stratatune.objectives.registry import OBJECTIVES  # brings in numpy, which drawing a plan does not need

    found = OBJECTIVES[objective]
    few = (positions or found.reads) != "all"
    return few and not shape.reads_all(found.head) and shape.last_block is not None


def reread(shape: Shape, tokens: int) -> float:
    """The work of a forward of all blocks over ``tokens`` positions; with two stacks, of the encoder's."""
    return sum(
        block_work(shape.of_block(number), (), tokens, tokens, arrives=False).forward for number in range(shape.border)
    )


def _inserted(one: Insertion, shape: Shape, length: int, arrives: bool) -> Work:
    """The work of an insertion's matrices; the first needs no input gradient where nothing below trains."""
    product, (read, weights) = 2.0 * one.multiplications_at(shape, length), one.entered(shape, length)
    spared = 0.0 if arrives else 2.0 * read * weights
    return Work(product, 2 * product - spared)


def head_work(resolved: Resolved, name: str, arrives: bool, labels: int, words: int) -> Work:
    """The work of the pretrained head at one position, and of a new output layer, which always trains."""
    shape, head = resolved.shape, resolved.plan.head
    if name in LM_OBJECTIVES:
        has_dense = shape.head_parts["dense"] > 0
        stages = [("dense", shape.hidden * shape.word)] if has_dense else []
        stages.append(("decoder", (words or shape.vocab) * shape.word))
        # A decoder that is tied to the embeddings trains with them.
        tied = shape.decoder_tied and resolved.trains_embeddings and not resolved.unties
        trained = {*head.mlm, *(["decoder"] if tied else [])}
    elif name in POOLED:
        layers = {"pooler": (shape.pooler, head.pooler), "dense": (shape.classifier_dense, True)}
        stages = [(name, shape.hidden**2) for name, (size, _) in layers.items() if size]
        stages += [("output", shape.hidden * labels)]
        trained = {name for name, (_, trains) in layers.items() if trains} | {"output"}
    elif name == "none":
        stages, trained = [], set[str]()
    else:  # an output layer alone
        stages, trained = [("output", shape.hidden * labels)], {"output"}
    final = head.final_norm or (shape.normed_by_final and "norm" in head.mlm)
    arrives = arrives or bool(shape.final_norm and final)
    work = Work()
    for name, weights in stages:
        work += Work(2.0 * weights, 2.0 * weights * (arrives + (name in trained)))
        arrives = arrives or name in trained or (name == "dense" and "norm" in trained)
    return work
