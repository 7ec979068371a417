"""Hears that this node will be taken away, from whoever says so, early enough to leave in good order.

Sources know one place each (a cloud's metadata server, a signal, a hook, a file) and turn what it says into a `Notice`;
the watcher asks them, patiently and without a busy loop, and calls back once per notice. Refuses to know what is done
about a notice: draining is the business of whoever runs the node.
"""
