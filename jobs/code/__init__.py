"""A job's own code, kept by what it holds: the folder as it was when the job was submitted, in one place for all nodes.

A run that is resized or started again tomorrow imports the files that it was submitted with, whatever their author has
done to them since; two jobs with the same files share one copy, and a registered version names the code it came from.
"""
