"""Files that programs share or own: locks, private files, files that are replaced while a program runs."""
