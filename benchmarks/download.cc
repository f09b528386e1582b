// Decoders of one model's download, in turns on one thread: ours, zlib's and zstd's.
//
//   download CONTAINER DEFLATED ZSTD BYTES ROUNDS     times; BYTES: of the file that all three hold
//   download CONTAINER                                decodes once, from memory: kB that it adds to the process's peak
#include <dlfcn.h>
#include <zlib.h>

#include <ctime>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <vector>

#include "../targets/download/decode.h"

using Bytes = std::vector<uint8_t>;

static Bytes read(const char *path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

static size_t status(const char *name) {  // kB, of /proc/self/status
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);)
    if (!line.compare(0, strlen(name), name)) return strtoul(line.c_str() + strlen(name) + 1, nullptr, 10);
  return 0;
}

// Pieces go into the place that a whole file would: the rivals write there, too.
struct Place {
  uint8_t *at;
};

static bool copy(void *place, const uint8_t *data, size_t bytes) {
  memcpy(((Place *)place)->at, data, bytes);
  ((Place *)place)->at += bytes;
  return true;
}

static bool drop(void *, const uint8_t *, size_t) { return true; }

template <typename Function>
static double seconds(const Function &function) {
  const auto now = [] {
    timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);  // others may be using the cores
    return double(time.tv_sec) + 1e-9 * double(time.tv_nsec);
  };
  const double start = now();
  if (!function()) puts("a decoder failed"), exit(1);
  return now() - start;
}

int main(int count, char **arguments) {
  Bytes container;
  if (count == 2) {
    std::ifstream file(arguments[1], std::ios::binary);
    file.seekg(0, std::ios::end), container.resize(size_t(file.tellg()));
    file.seekg(0), file.read((char *)container.data(), std::streamsize(container.size()));
    const size_t before = status("VmHWM");
    if (const char *wrong = edgecomp::decode(container.data(), container.size(), {drop, nullptr})) return puts(wrong), 1;
    printf("%zu\n", status("VmHWM") - before);
    return 0;
  }
  container = read(arguments[1]);
  const Bytes deflated = read(arguments[2]), packed = read(arguments[3]);
  Bytes file(strtoul(arguments[4], nullptr, 10));
  void *library = dlopen("libzstd.so.1", RTLD_NOW);
  if (!library) return puts(dlerror()), 1;
  const auto zstd = (size_t(*)(void *, size_t, const void *, size_t))dlsym(library, "ZSTD_decompress");
  for (int round = 0; round < atoi(arguments[5]); ++round) {
    const double ours = seconds([&] {
      Place place{file.data()};
      return !edgecomp::decode(container.data(), container.size(), {copy, &place});
    });
    const double zlibs = seconds([&] {
      uLongf bytes = file.size();
      return uncompress(file.data(), &bytes, deflated.data(), deflated.size()) == Z_OK && bytes == file.size();
    });
    const double zstds = seconds([&] { return zstd(file.data(), file.size(), packed.data(), packed.size()) == file.size(); });
    printf("%.6f %.6f %.6f\n", ours, zlibs, zstds);
  }
}
