// Types of elements, checked sizes, and views: trivially copyable, own nothing, know their shape.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace rondo {

enum class DType : uint8_t { f32, f16, bf16, i32, u32, u8 };

size_t dtype_bytes(DType dtype);
const char* dtype_name(DType dtype);  // "f32", "bf16", ...

// a * b and a + b, or Error(InvalidArgument) naming `what` when 64 bits do not hold the result.
uint64_t checked_mul(uint64_t a, uint64_t b, const char* what);
uint64_t checked_add(uint64_t a, uint64_t b, const char* what);

// Up to four dimensions, row-major, the last contiguous.
struct Shape {
  std::array<int64_t, 4> dims{};
  int rank = 0;

  Shape() = default;
  Shape(std::initializer_list<int64_t> d);
  int64_t operator[](int i) const { return dims[static_cast<size_t>(i)]; }
  uint64_t elements() const;  // checked
  bool operator==(const Shape&) const = default;
  std::string text() const;  // "[4096, 14336]"
};

// Some elements at an address: in host or device memory, whoever made it knows. data is null where a view is
// absent (a missing bias) or only planned.
struct View {
  void* data = nullptr;
  DType dtype = DType::f32;
  Shape shape;

  explicit operator bool() const { return data != nullptr; }
  uint64_t bytes() const;  // checked
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

}  // namespace rondo
