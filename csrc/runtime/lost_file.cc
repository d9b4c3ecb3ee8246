#include "runtime/lost_file.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>

// Everything below the handler may only call what POSIX lists as async-signal-safe: the fault may lie inside malloc.
namespace attnedit {
namespace {

struct sigaction before;
std::atomic<bool> told{false};

void say(const char* text, size_t length) {
  while (length > 0) {
    const ssize_t written = write(STDERR_FILENO, text, length);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;
    text += written;
    length -= static_cast<size_t>(written);
  }
}

// Reads a file by bytes, through a buffer.
class Bytes {
 public:
  explicit Bytes(int file) : file_(file) {}
  int next() {
    if (at_ == end_) {
      at_ = 0;
      do end_ = read(file_, buffer_, sizeof buffer_);
      while (end_ < 0 && errno == EINTR);
      if (end_ <= 0) return at_ = end_ = 0, -1;
    }
    return static_cast<unsigned char>(buffer_[at_++]);
  }

 private:
  const int file_;
  char buffer_[1024];
  ssize_t at_ = 0, end_ = 0;
};

// A hexadecimal number; last becomes the character behind it.
uintptr_t hexadecimal(Bytes& bytes, int& last) {
  uintptr_t value = 0;
  for (;;) {
    last = bytes.next();
    if (last >= '0' && last <= '9') {
      value = value * 16 + static_cast<uintptr_t>(last - '0');
    } else if (last >= 'a' && last <= 'f') {
      value = value * 16 + static_cast<uintptr_t>(last - 'a' + 10);
    } else {
      return value;
    }
  }
}

// The path of the file that is mapped at address, from lines of "begin-end flags offset device inode   /path"; its
// length is 0 where there is none.
size_t mapped_path(uintptr_t address, char* path, size_t room) {
  const int file = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  if (file < 0) return 0;
  Bytes bytes(file);
  size_t length = 0;
  for (int last = 0; last >= 0;) {
    const uintptr_t begin = hexadecimal(bytes, last), end = hexadecimal(bytes, last);
    const bool here = begin <= address && address < end;
    bool inside = false;
    while ((last = bytes.next()) >= 0 && last != '\n') {
      inside = inside || last == '/';
      if (here && inside && length < room) path[length++] = static_cast<char>(last);
    }
    if (here) break;
  }
  close(file);
  return length;
}

void on_bus_error(int, siginfo_t* info, void*) {
  if (told.exchange(true)) {
    for (;;) pause();  // another thread is telling it, and ends this one too
  }
  char path[4200];
  const size_t length = info->si_code > 0 ? mapped_path(reinterpret_cast<uintptr_t>(info->si_addr), path, 4096) : 0;
  if (length == 0) {
    sigaction(SIGBUS, &before, nullptr);
    told = false;
    if (info->si_code <= 0) raise(SIGBUS);  // sent, not a fault that comes again by itself
    return;
  }
  constexpr char begin[] = "attnedit: ", end[] = ": was cut while it was open, or its disk failed\n";
  say(begin, sizeof begin - 1);
  say(path, length);
  say(end, sizeof end - 1);
  _exit(2);
}

}  // namespace

void report_lost_files() {
  struct sigaction action {};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  struct sigaction old {};
  if (sigaction(SIGBUS, &action, &old) != 0) {
    throw std::runtime_error(std::string("[report_lost_files] ") + std::strerror(errno));
  }
  if (!(old.sa_flags & SA_SIGINFO) || old.sa_sigaction != on_bus_error) before = old;
}

}  // namespace attnedit
