// Vector clocks: what a thread knows of the past of every other one.
//
// Flanagan and Freund, "FastTrack: efficient and precise dynamic race detection", PLDI 2009, section 2. Threads of one
// block learn from each other all the time, those of different blocks seldom, so the two are kept apart.
#pragma once
#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

namespace machine {

using Clock = std::vector<uint32_t>;                // by thread of a block
using Others = std::vector<std::shared_ptr<Clock>>;  // by block; null: nothing is known of it. Never changed in place

// Of one's own block, and of the others; and of one's own what lies before a proxy fence that has been seen.
struct Seen { Clock own; Others others; Clock fenced; };

inline uint32_t known(const Clock& clock, unsigned of) { return of < clock.size() ? clock[of] : 0; }

inline void raise(Clock& clock, unsigned of, uint32_t to) {
  if (clock.size() <= of) clock.resize(of + 1);
  clock[of] = std::max(clock[of], to);
}

inline void join(Clock& into, const Clock& from) {
  if (into.size() < from.size()) into.resize(from.size());
  for (size_t i = 0; i < from.size(); ++i) into[i] = std::max(into[i], from[i]);
}

inline void join(Others& into, const Others& from) {
  if (into.size() < from.size()) into.resize(from.size());
  for (size_t b = 0; b < from.size(); ++b) {
    if (!from[b] || into[b] == from[b]) continue;
    if (!into[b]) {
      into[b] = from[b];
      continue;
    }
    auto joined = std::make_shared<Clock>(*into[b]);
    join(*joined, *from[b]);
    into[b] = joined;
  }
}

inline void join(Seen& into, const Seen& from) {
  join(into.own, from.own);
  join(into.others, from.others);
  join(into.fenced, from.fenced);
}

}  // namespace machine
