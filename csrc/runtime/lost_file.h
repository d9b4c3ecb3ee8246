#pragma once

namespace attnedit {

// From here on, a mapped file that is cut while the process reads it, or whose disk fails, ends the process with one
// line on stderr that names the file and exit status 2, where the system would only say "Bus error". For programs, not
// for libraries: it takes SIGBUS for the whole process. Faults of anything but files go on as before.
void report_lost_files();

}  // namespace attnedit
