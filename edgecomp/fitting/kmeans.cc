// Lloyd's k-means for many small problems at once: the fast twin of kmeans.py. Points are compared eight at a time.
//
// Work is cut into chunks of points whose partial sums are added in a fixed order, and every problem draws from its own
// random numbers: the result does not depend on the number of threads.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <thread>
#include <vector>

namespace {

constexpr int kLanes = 8;
typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
// Codewords go beyond the means of their members, for these will go on the same way; at last they become the means.
constexpr float kPace = 1.7f;
constexpr int kExact = 2;   // iterations
constexpr int kTrials = 2;  // drawn points per codeword at the start
constexpr int64_t kChunk = 1 << 14;  // points, a multiple of kLanes

uint64_t next_random(uint64_t &state) {  // splitmix64
  uint64_t z = (state += 0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

double uniform(uint64_t &state) { return double(next_random(state) >> 11) * 0x1p-53; }

// Runs body(0) … body(items - 1) on several threads.
void parallel(int64_t items, int threads, const std::function<void(int64_t)> &body) {
  std::atomic<int64_t> next{0};
  auto work = [&] {
    for (int64_t i = next++; i < items; i = next++) body(i);
  };
  std::vector<std::thread> helpers;
  for (int t = 1; t < std::min<int64_t>(threads, items); ++t) helpers.emplace_back(work);
  work();
  for (auto &helper : helpers) helper.join();
}

Floats load(const float *p) {
  Floats v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

// One clustering problem. Points are kept in groups of eight, element by element: [count/8][s][8], padded with copies
// of the last point that have no weight.
struct Problem {
  const float *points;
  const float *weights;  // or nullptr
  int64_t count;
  int s, k;
  float *codebook;  // k × s
  uint8_t *codes;
  uint64_t random;
  int threads;

  std::vector<float> grouped, grouped_weights, errors;
  struct Sums {  // over the members of each codeword, kept up to date as points change their codeword
    std::vector<double> totals, mass;
    bool changed = false;
  };
  std::vector<Sums> partial;

  int64_t chunks() const { return (count + kChunk - 1) / kChunk; }
  int64_t groups() const { return (count + kLanes - 1) / kLanes; }
  float weight(int64_t i) const { return weights ? weights[i] : 1.0f; }

  void group_points() {
    grouped.resize(size_t(groups()) * s * kLanes);
    grouped_weights.assign(groups() * kLanes, 0);
    for (int64_t i = 0; i < count; ++i) grouped_weights[i] = weight(i);
    for (int64_t i = 0; i < groups() * kLanes; ++i)
      for (int e = 0; e < s; ++e)
        grouped[((i / kLanes) * s + e) * kLanes + i % kLanes] = points[std::min(i, count - 1) * s + e];
  }

  // Squared distances of a group of eight to one codeword.
  Floats distances(int64_t group, const float *word) const {
    const float *p = &grouped[group * s * kLanes];
    Floats sum = {};
    for (int e = 0; e < s; ++e) {
      const Floats d = load(p + e * kLanes) - word[e];
      sum += d * d;
    }
    return sum;
  }

  void for_chunks(const std::function<void(int64_t, int64_t, int64_t)> &body) {
    parallel(chunks(), threads, [&](int64_t c) {
      body(c, c * kChunk / kLanes, std::min((c + 1) * kChunk / kLanes, groups()));
    });
  }

  double chance(int64_t i, bool first) const { return first ? weight(i) : double(errors[i]) * weight(i); }

  // A point drawn with a chance proportional to weight · squared distance to the codewords so far; `mass` holds the
  // sums of that over the chunks.
  int64_t draw(const std::vector<double> &mass, bool first) {
    double total = 0;
    for (double m : mass) total += m;
    double target = uniform(random) * total;
    int64_t chunk = 0;
    while (chunk + 1 < chunks() && target >= mass[chunk]) target -= mass[chunk++];
    int64_t chosen = chunk * kChunk;
    for (int64_t i = chosen; i < std::min((chunk + 1) * kChunk, count); ++i) {
      const double part = chance(i, first);
      if (part > 0) chosen = i;
      if ((target -= part) < 0) break;
    }
    return chosen;
  }

  // Greedy k-means++ (Arthur & Vassilvitskii 2007): of a few drawn points the one that lowers the error most is next.
  void start() {
    errors.assign(groups() * kLanes, std::numeric_limits<float>::infinity());
    std::vector<double> mass(chunks());
    for_chunks([&](int64_t chunk, int64_t first, int64_t last) {
      for (int64_t i = first * kLanes; i < std::min(last * kLanes, count); ++i) mass[chunk] += weight(i);
    });
    std::vector<int64_t> drawn;
    std::vector<double> after;
    for (int c = 0; c < k; ++c) {
      drawn.resize(c == 0 ? 1 : kTrials);
      for (int64_t &point : drawn) point = draw(mass, c == 0);
      after.assign(chunks() * drawn.size(), 0);
      for_chunks([&](int64_t chunk, int64_t first, int64_t last) {
        for (size_t t = 0; t < drawn.size(); ++t) {
          Floats error = {};
          for (int64_t g = first; g < last; ++g) error += lowered(g, points + drawn[t] * s);
          for (int lane = 0; lane < kLanes; ++lane) after[chunk * drawn.size() + t] += error[lane];
        }
      });
      size_t best = 0;
      double least = std::numeric_limits<double>::infinity();
      for (size_t t = 0; t < drawn.size(); ++t) {
        double sum = 0;
        for (int64_t chunk = 0; chunk < chunks(); ++chunk) sum += after[chunk * drawn.size() + t];
        if (sum < least) least = sum, best = t;
      }
      std::memcpy(codebook + c * s, points + drawn[best] * s, sizeof(float) * s);
      for_chunks([&](int64_t chunk, int64_t first, int64_t last) {
        mass[chunk] = after[chunk * drawn.size() + best];
        for (int64_t g = first; g < last; ++g) {
          const Floats d = distances(g, codebook + c * s), old = load(&errors[g * kLanes]);
          const Floats least_error = d < old ? d : old;
          std::memcpy(&errors[g * kLanes], &least_error, sizeof least_error);
        }
      });
    }
  }

  // Weighted errors of a group of eight if `word` were a codeword too.
  Floats lowered(int64_t group, const float *word) const {
    const Floats d = distances(group, word), old = load(&errors[group * kLanes]);
    return (d < old ? d : old) * load(&grouped_weights[group * kLanes]);
  }

  // Gives every point its nearest codeword and moves it between the sums. True if a code changed.
  template <int S>
  bool assign(bool first_time) {
    const int width = S ? S : s;
    std::vector<float> half(k);
    for (int c = 0; c < k; ++c) {
      float norm = 0;
      for (int e = 0; e < width; ++e) norm += codebook[c * width + e] * codebook[c * width + e];
      half[c] = 0.5f * norm;
    }
    if (first_time) partial.assign(chunks(), {std::vector<double>(size_t(k) * width), std::vector<double>(k)});
    for_chunks([&](int64_t chunk, int64_t first, int64_t last) {
      Sums &sums = partial[chunk];
      sums.changed = false;
      auto move = [&](int64_t point, int code, double w) {
        sums.mass[code] += w;
        for (int e = 0; e < width; ++e) sums.totals[code * width + e] += w * points[point * width + e];
      };
      for (int64_t g = first; g < last; ++g) {
        const float *p = &grouped[g * width * kLanes];
        Floats best = Floats{} + std::numeric_limits<float>::infinity();
        Ints nearest = {};
        for (int c = 0; c < k; ++c) {
          Floats score = Floats{} + half[c];  // ½‖c‖² − p·c: smallest where ‖p − c‖ is
          for (int e = 0; e < width; ++e) score -= load(p + e * kLanes) * codebook[c * width + e];
          const Ints closer = score < best;
          best = closer ? score : best;
          nearest = closer ? Ints{} + c : nearest;
        }
        const int64_t i0 = g * kLanes;
        for (int lane = 0; lane < std::min<int64_t>(kLanes, count - i0); ++lane) {
          const int64_t i = i0 + lane;
          if (!first_time && codes[i] == nearest[lane]) continue;
          const double w = weight(i);
          if (!first_time) move(i, codes[i], -w);
          move(i, nearest[lane], w);
          codes[i] = uint8_t(nearest[lane]);
          sums.changed = true;
        }
      }
    });
    return std::any_of(partial.begin(), partial.end(), [](const Sums &p) { return p.changed; });
  }

  bool assign(bool first_time) {
    switch (s) {
      case 1: return assign<1>(first_time);
      case 2: return assign<2>(first_time);
      case 4: return assign<4>(first_time);
      case 8: return assign<8>(first_time);
      default: return assign<0>(first_time);
    }
  }

  // Codewords move `pace` times the way to the means of their members; those without any to the points served worst.
  void update(float pace) {
    std::vector<int> empty;
    double all = 0;
    for (const Sums &p : partial)
      for (double mass : p.mass) all += mass;
    for (int c = 0; c < k; ++c) {
      double mass = 0;
      for (const Sums &p : partial) mass += p.mass[c];
      if (mass <= 1e-12 * all) {  // what is left of members that are gone is rounding
        empty.push_back(c);
        continue;
      }
      for (int e = 0; e < s; ++e) {
        double total = 0;
        for (const Sums &p : partial) total += p.totals[c * s + e];
        codebook[c * s + e] += pace * (float(total / mass) - codebook[c * s + e]);
      }
    }
    if (!empty.empty()) refill(empty);
  }

  void refill(const std::vector<int> &empty) {
    std::vector<std::pair<double, int64_t>> worst;  // a heap of the largest errors, the smallest of them on top
    for (int64_t i = 0; i < count; ++i) {
      double error = 0;
      for (int e = 0; e < s; ++e) {
        const double d = points[i * s + e] - codebook[codes[i] * s + e];
        error += d * d;
      }
      error *= weight(i);
      if (error <= 0) continue;
      worst.emplace_back(-error, i);
      std::push_heap(worst.begin(), worst.end());
      if (worst.size() > empty.size()) {
        std::pop_heap(worst.begin(), worst.end());
        worst.pop_back();
      }
    }
    std::sort(worst.begin(), worst.end());
    for (size_t i = 0; i < worst.size(); ++i)
      std::memcpy(codebook + empty[i] * s, points + worst[i].second * s, sizeof(float) * s);
  }

  void fit(int iterations, bool started) {
    group_points();
    if (!started) start();
    assign(true);
    bool exact = false;
    for (int i = 0; i < iterations; ++i) {
      exact = exact || i + kExact >= iterations;
      update(exact ? 1 : kPace);
      if (assign(false)) continue;
      if (exact) break;
      exact = true;
    }
  }
};

}  // namespace

extern "C" void edgecomp_kmeans(const float *points, const float *weights, int64_t problems, int64_t count, int s, int k,
                                int iterations, uint64_t seed, int started, int threads, float *codebooks,
                                uint8_t *codes) {
  // Many problems: one per thread. Few: all threads on each in turn.
  const bool apart = problems >= threads;
  parallel(problems, apart ? threads : 1, [&](int64_t i) {
    uint64_t random = seed * 0x9e3779b97f4a7c15 + uint64_t(i);
    next_random(random);
    Problem problem{points + i * count * s, weights ? weights + i * count : nullptr, count, s, k, codebooks + i * k * s,
                    codes + i * count, random, apart ? 1 : threads, {}, {}, {}, {}};
    problem.fit(iterations, started);
  });
}
