"""Define the commands of `cutaway`: one file each, named after it, with one function of the same name.

report                                          a page about a model
predict, lens, attention, ablate, attribute, trace      a question about a text
patch                                           a question about two texts
states, norms, unigram                          a question about a corpus
generate, tokens                                a text continued, a text as tokens
anatomy, sites, versions                        the model, and what is installed
app                                             the workbench
"""
