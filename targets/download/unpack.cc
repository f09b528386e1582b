// The C API of downloads, on files.
#include "edgecomp_unpack.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>

#include "decode.h"

namespace {

bool write_all(void *file, const uint8_t *data, size_t bytes) { return fwrite(data, 1, bytes, (FILE *)file) == bytes; }

// What is wrong, or "".
std::string unpack_bytes(const void *data, size_t bytes, const char *to) {
  const std::string partial = std::string(to) + ".partial";
  FILE *file = fopen(partial.c_str(), "wb");
  if (!file) return "the file cannot be written: " + std::string(strerror(errno));
  setvbuf(file, nullptr, _IONBF, 0);  // pieces are large
  const char *wrong = edgecomp::decode((const uint8_t *)data, bytes, {write_all, file});
  if (!wrong && fsync(fileno(file))) wrong = "the file cannot be written";
  if (fclose(file) && !wrong) wrong = "the file cannot be written";
  if (!wrong && rename(partial.c_str(), to)) wrong = "the file cannot be written";
  if (!wrong) return "";
  unlink(partial.c_str());
  return wrong;
}

std::string unpack(const char *from, const char *to) {
  const int file = open(from, O_RDONLY | O_CLOEXEC);
  struct stat info;
  if (file < 0 || fstat(file, &info)) {
    const std::string why = strerror(errno);
    if (file >= 0) close(file);
    return why;
  }
  const size_t bytes = size_t(info.st_size);
  void *data = bytes ? mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, file, 0) : nullptr;
  const std::string why = data == MAP_FAILED ? strerror(errno) : "";
  close(file);
  if (!why.empty()) return why;
  const std::string wrong = unpack_bytes(data, bytes, to);
  if (data) munmap(data, bytes);
  return wrong;
}

template <typename Function>
int guarded(char *error, size_t size, const char *what, const Function &function) {
  std::string wrong;
  try {
    wrong = function();
  } catch (...) {  // strings take memory, too
    wrong = "not enough memory";
  }
  if (error && size) snprintf(error, size, "%s%s%s", wrong.empty() ? "" : what, wrong.empty() || !*what ? "" : ": ",
                              wrong.c_str());
  return wrong.empty() ? 0 : 1;
}

}  // namespace

extern "C" {

int edgecomp_unpack(const char *from, const char *to, char *error, size_t size) {
  if (!from || !to) return guarded(error, size, "", [] { return std::string("no path is given"); });
  return guarded(error, size, from, [&] { return unpack(from, to); });
}

int edgecomp_unpack_bytes(const void *data, size_t bytes, const char *to, char *error, size_t size) {
  if (!to || (!data && bytes)) return guarded(error, size, "", [] { return std::string("no path or no data"); });
  return guarded(error, size, "", [&] { return unpack_bytes(data, bytes, to); });
}
}
