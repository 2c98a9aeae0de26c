#include "buffers/page_pool.h"

#include <gtest/gtest.h>

#include <set>

namespace rondo {
namespace {

TEST(PagePool, GivesEveryPageOnceAndNeverTheScrapPage) {
  PagePool pool(6);
  std::vector<int32_t> pages;
  ASSERT_TRUE(pool.take(5, pages));
  EXPECT_EQ(std::set<int32_t>(pages.begin(), pages.end()), (std::set<int32_t>{1, 2, 3, 4, 5}));
  EXPECT_EQ(pool.free(), 0);
}

TEST(PagePool, GivesAllOrNothing) {
  PagePool pool(4);
  std::vector<int32_t> a, b;
  ASSERT_TRUE(pool.take(2, a));
  EXPECT_FALSE(pool.take(2, b));
  EXPECT_TRUE(b.empty());
  EXPECT_EQ(pool.free(), 1);
  pool.give_back(a);
  EXPECT_TRUE(a.empty());
  EXPECT_TRUE(pool.take(3, b));
}

}  // namespace
}  // namespace rondo
