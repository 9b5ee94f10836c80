"""Two small sample data sets, for examples and tests.

Both were written for this project, sentence by sentence; nothing is taken from another
data set. They carry the project's licence, Apache-2.0. Names, streets and account numbers
in them are made up. Each set is a folder of two UTF-8 CSV files with a header line, ``train.csv``
and ``eval.csv``.

``requests``: 600 short texts (5 to 25 words) that people might send to a city's
service desk.

* ``text``: the message, in English, some with typing errors left in on purpose
* ``label``: ``billing``, ``waste``, ``transport``, ``housing``, ``parks`` or ``noise``
* 75 rows a label to train on, 25 to evaluate

``pairs``: 240 pairs of sentences about everyday and service-desk matters.

* ``question``: the first sentence, a question or a statement
* ``candidate``: the sentence to compare with it
* ``label``: ``same`` if both ask for or state the same thing in other words, else
  ``different``
* 90 rows a label to train on, 30 to evaluate
"""
