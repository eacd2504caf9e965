"""What can be trained, declared once: the fields of a task are the options of its command and the keywords of Python.

    Pretraining(model="hubert", size="slim", steps=20_000).run(corpus, "run")
    Heads(at=(1000, 6000), steps=11_000).run("run/step-20000", corpus, "pruned")

A value that is None is the paper's, which depends on the model. ``run`` returns what the function behind it does,
``account`` says it to a person. Nothing heavy is imported before ``run``: the help of commands is made of these
classes.
"""
