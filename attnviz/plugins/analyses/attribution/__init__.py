"""How much each token has to do with a prediction: one technique a file, over one engine.

question.py           what is asked: targets, sources, target function; the parameters all methods share
target_functions.py   the number that is explained
engine.py             forward passes and gradients for all targets at once
hidden_axis.py        from one vector per token to one number
answer.py             from numbers to an Attribution
"""
