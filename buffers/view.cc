#include "buffers/view.h"

#include "buffers/error.h"

namespace rondo {

size_t dtype_bytes(DType dtype) {
  switch (dtype) {
    case DType::f32:
    case DType::i32:
    case DType::u32: return 4;
    case DType::f16:
    case DType::bf16: return 2;
    case DType::u8: return 1;
  }
  return 0;
}

const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::f32: return "f32";
    case DType::f16: return "f16";
    case DType::bf16: return "bf16";
    case DType::i32: return "i32";
    case DType::u32: return "u32";
    case DType::u8: return "u8";
  }
  return "unknown";
}

namespace {
[[noreturn]] void too_large(uint64_t a, const char* op, uint64_t b, const char* what) {
  throw Error(ErrorKind::InvalidArgument, std::string(what) + ": " + std::to_string(a) + op +
                                              std::to_string(b) + " does not fit in 64 bits");
}
}  // namespace

uint64_t checked_mul(uint64_t a, uint64_t b, const char* what) {
  uint64_t r;
  if (__builtin_mul_overflow(a, b, &r)) too_large(a, " * ", b, what);
  return r;
}

uint64_t checked_add(uint64_t a, uint64_t b, const char* what) {
  uint64_t r;
  if (__builtin_add_overflow(a, b, &r)) too_large(a, " + ", b, what);
  return r;
}

Shape::Shape(std::initializer_list<int64_t> d) {
  if (d.size() > dims.size()) throw Error(ErrorKind::InvalidArgument, "a shape has at most 4 dimensions");
  for (int64_t n : d) dims[static_cast<size_t>(rank++)] = n;
}

uint64_t Shape::elements() const {
  uint64_t n = 1;
  for (int i = 0; i < rank; ++i) n = checked_mul(n, static_cast<uint64_t>((*this)[i]), "elements of a shape");
  return n;
}

std::string Shape::text() const {
  std::string s = "[";
  for (int i = 0; i < rank; ++i) s += (i ? ", " : "") + std::to_string((*this)[i]);
  return s + "]";
}

uint64_t View::bytes() const { return checked_mul(shape.elements(), dtype_bytes(dtype), "bytes of a view"); }

}  // namespace rondo
