// What the native tests share.
#pragma once
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

inline int failures = 0;

inline void expect(bool condition, const std::string& what) {
  if (condition) return;
  ++failures;
  std::printf("FAILED: %s\n", what.c_str());
}

// Memory as the kernels want it, in which what they do not write shows.
struct Buffer {
  explicit Buffer(size_t size) : bytes(size), data(std::aligned_alloc(64, (size + 127) / 64 * 64)) {
    std::memset(data, 0xff, size);
  }
  ~Buffer() { std::free(data); }
  Buffer(const Buffer&) = delete;
  size_t bytes;
  void* data;
};
