"""See and change the tensors inside a forward pass.

sites.py       the names of all tensors, and patterns that pick some
components.py  the address of a component: "head 3.1", "mlp 2", "neuron 3.712"
tap.py         what a pass carries through itself: at each site it captures, edits or shows
edits.py       the edits that `with model.edited(...)` puts in force
captures.py    the tensors that a pass kept: Run
"""
