"""Ground: files, the folder of a build, progress, units, statistics, the C++ compiler."""
